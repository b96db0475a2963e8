"""One plain Caffe solver, alone, in a process of its own: what a cluster's result is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gossip_caffe.solver.errand import run_errand, serve_errand


async def train_bare(
    solver_text: str,
    iterations: int,
    folder: Path,
    save_every: int,
    on_saved: Callable[[int, Path], None] = lambda *_: None,
) -> list[tuple[int, Path]]:
    """Train for that many iterations and save .caffemodel files into ``folder``; returns (iterations, file) of each.

    ``solver_text`` is self-contained, with its net inlined and its data layer its own. Raises SolverDied with
    Caffe's reason.
    """
    saved: list[tuple[int, Path]] = []

    def note(result: dict[str, Any]) -> None:
        saved.append((result["iterations"], Path(result["saved"])))
        on_saved(*saved[-1])

    request = {"solver": solver_text, "iterations": iterations, "folder": str(folder), "save_every": save_every}
    await run_errand(__name__, request, note)
    return saved


def _work(request: dict[str, Any]) -> Iterator[dict[str, object]]:
    import caffe  # noqa: PLC0415 - only this process may import it

    from gossip_caffe.solver.pycaffe_engine import solver_of  # noqa: PLC0415 - imports Caffe too

    caffe.set_mode_cpu()
    solver = solver_of(request["solver"])
    done, total = 0, request["iterations"]
    while done < total:
        now = min(request["save_every"], total - done)
        solver.step(now)
        done += now
        path = f"{request['folder']}/bare-{done:08d}.caffemodel"
        solver.net.save(path)
        yield {"iterations": done, "saved": path}


if __name__ == "__main__":
    serve_errand(_work)
