"""The result of a training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossip_caffe.api.values.html import table
from gossip_caffe.errors import ExitCode
from gossip_caffe.observe.log.tested import ConsensusTest

if TYPE_CHECKING:
    from gossip_caffe.api.values.net_weights import CaffeNet


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a training.

    - ``finished``: True if all iterations were trained. ``iterations``: the iterations in ``model``.
    - ``model``: the newest .caffemodel file; None when the solver file turns it off.
    - ``state``: the .solverstate file from which a later run continues; None when no momentum could be saved.
    - ``snapshots``: all .caffemodel files that were written, in order.
    - ``seconds``: the wall time. ``tested``: the newest test of the consensus, None when it was not tested.
    - ``lacks``: the reason why the last checkpoint is missing although all iterations were trained; "" otherwise.
    - ``code``: the exit code of ``gossip-caffe train``.
    """

    finished: bool
    iterations: int
    seconds: float
    model: Path | None
    state: Path | None
    snapshots: tuple[Path, ...]
    tested: ConsensusTest | None
    lacks: str = ""
    code: ExitCode = ExitCode.OK

    def to_record(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        return {
            "finished": self.finished,
            "iterations": self.iterations,
            "seconds": round(self.seconds, 3),
            "model": str(self.model) if self.model is not None else None,
            "state": str(self.state) if self.state is not None else None,
            "snapshots": [str(path) for path in self.snapshots],
            "tested": self.tested.to_record() if self.tested is not None else None,
            "lacks": self.lacks or None,
        }

    def load_into(self, net: CaffeNet) -> tuple[str, ...]:
        """Copy the weights of ``model`` into a ``caffe.Net``, by layer name. Returns the names of the loaded layers.

        Raises NotFound when no model was written, ModelError when a blob of the net has another shape.
        """
        from gossip_caffe.api.values.net_weights import load_file  # noqa: PLC0415 - it reads no Caffe, but NumPy

        return load_file(self.model, net)

    def _repr_html_(self) -> str:
        """Return the result as a table, for notebooks."""
        tested = self.tested.words() if self.tested is not None else ""
        rows = [
            ("finished", "yes" if self.finished else "no"),
            ("iterations", f"{self.iterations:,}"),
            ("seconds", f"{self.seconds:,.1f}"),
            ("model", str(self.model or "")),
            ("state", str(self.state or "")),
            ("tested", tested),
            ("lacks", self.lacks),
        ]
        return table(("result", ""), [row for row in rows if row[1]])
