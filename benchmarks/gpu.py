"""The cost of being a peer on a GPU: its iterations against a bare ``solver.step`` in the same process, by turns.

    python benchmarks/gpu.py [--gpu 0] [--batch 256] [--rounds 5] [--seconds 6] [--torch-python PYTHON]

AlexNet, with cuDNN and without. The peer's agent exchanges with a partner on this machine every 16 iterations. Where a
PYTHON has torch, the same net is trained by it as well. ``--gpu cpu`` tries the script where there is no GPU; what it
prints then says nothing. docs/internals/benchmarks.md says what each figure means.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from _alexnet import alexnet
from _full_ring import full_ring, refill
from _models import LENET, Model, write_solver
from never_wait import Role
from numpy.typing import NDArray

from gossip_caffe.data.sources import source
from gossip_caffe.errors import ExitCode, GossipCaffeError
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import JobSettings, JobSpec
from gossip_caffe.solver.board import WeightBoard
from gossip_caffe.solver.checks.gpu_trial import look_at_gpus
from gossip_caffe.solver.engines.engine import engine_spec
from gossip_caffe.solver.gpu.device import CPU, gpu_device
from gossip_caffe.solver.gpu.gpus import Gpu, chosen
from gossip_caffe.solver.loop import SolverLoop

EXCHANGE_EVERY = 16
WARM_UP = 5
HERE = Path(__file__).resolve()

Flat = NDArray[np.float32]


# ── the solver ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Worker:
    """The product's engine and loop on a GPU, with batches that are always there; and the same solver without them."""

    def __init__(self, job: JobSpec, device: str) -> None:
        import caffe  # noqa: PLC0415 - only this child may load Caffe

        from gossip_caffe.solver.engines.pycaffe_engine import PycaffeEngine  # noqa: PLC0415

        assert caffe.__file__
        spec = engine_spec(job, "pycaffe", device=device)
        self._ring = full_ring(job)
        self._engine = PycaffeEngine(spec, self._ring)
        self.copying_s = 0.0
        layout = self._engine.layout
        self.board = WeightBoard.create(layout.size, layout.exchanged)
        own_view = WeightBoard.attach(os.dup(self.board.fd), present=True)
        self._timed("read_weights")
        self._timed("add_to_weights")
        self._loop = SolverLoop(self._engine, spec, job.schedule, self._ring, own_view, time.monotonic)
        self._loop.start(fresh=True)
        self.remark = self._engine.remark

    def _timed(self, name: str) -> None:
        """Add to ``copying_s`` what a method of the engine takes."""
        copy: Callable[[Flat], None] = getattr(self._engine, name)

        def timed(values: Flat) -> None:
            began = time.perf_counter()
            copy(values)
            self.copying_s += time.perf_counter() - began

        setattr(self._engine, name, timed)

    def _the_same_batch_again(self) -> None:
        refill(self._ring)

    def bare(self, seconds: float) -> dict[str, float]:
        """Iterations of ``solver.step`` and nothing else."""

        def one() -> None:
            self._engine._solver.step(1)
            self._the_same_batch_again()

        return self._repeated(one, seconds)

    def peer(self, seconds: float) -> dict[str, float]:
        """Iterations as a peer makes them: corrections and snapshots between them."""

        def one() -> None:
            self._loop.between_steps()
            self._loop.step(self._loop.batches_due)
            self._the_same_batch_again()

        return self._repeated(one, seconds)

    def _repeated(self, one: Callable[[], None], seconds: float) -> dict[str, float]:
        for _ in range(WARM_UP):
            one()
        self._wait_for_the_gpu()
        self.copying_s, done, began = 0.0, 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            one()
            done += 1
        self._wait_for_the_gpu()
        took = time.perf_counter() - began
        return {"per_s": done / took, "step_s": took / done, "copying_share": self.copying_s / took}

    def _wait_for_the_gpu(self) -> None:
        self._engine._loss()  # Caffe's own copy of the loss to the host waits for all before it


def work(solver_file: str, device: str, control_fd: int) -> None:
    """Hand the board over, and then do what stdin asks for."""
    worker = Worker(read_job("gpu", Path(solver_file), JobSettings(), source.measure), device)
    with socket.socket(fileno=control_fd) as control:
        socket.send_fds(control, [b"board"], [worker.board.fd])
    print(json.dumps(worker.remark), flush=True)
    for line in sys.stdin:
        kind, seconds = line.split()
        print(json.dumps(getattr(worker, kind)(float(seconds))), flush=True)


# ── all of them ───────────────────────────────────────────────────────────────────────────────────────────────────────


def worker_on(device: str, solver_file: Path, cores: set[int]) -> tuple[Role, int]:
    """A worker, and a descriptor of its board."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            fd = theirs.fileno()
            worker = Role(cores, "--work", solver_file, device, fd, fds=(fd,), script=str(HERE))
        _, fds, _, _ = socket.recv_fds(ours, 16, 1)
    if not fds:
        raise SystemExit("the worker did not start; see its message above")
    return worker, fds[0]


def measure(model: Model, device: str, rounds: int, seconds: float) -> dict[str, float]:
    cores = os.sched_getaffinity(0)
    bares: list[dict[str, float]] = []
    peers: list[dict[str, float]] = []
    exchanges = 0
    with tempfile.TemporaryDirectory(prefix="gossip-caffe-gpu-") as folder, ExitStack() as ending:

        def begun(role: Role) -> Role:
            ending.callback(role.end)
            return role

        solver_file = write_solver(model, Path(folder), max_iter=1_000_000)
        worker, board_fd = worker_on(device, solver_file, cores)
        begun(worker)
        if remark := worker.told():
            print(f"{model.name}: {remark}", flush=True)
        partner = begun(Role(cores, "--answer", WeightBoard.attach(os.dup(board_fd)).exchanged))
        agent = begun(Role(cores, "--exchange", board_fd, partner.told(), fds=(board_fd,)))
        agent.told()
        os.close(board_fd)

        def ask(kind: str) -> dict[str, float]:
            worker.ask(f"{kind} {seconds}")
            found: dict[str, float] = worker.told()
            return found

        step_s = ask("bare")["step_s"]
        for _ in range(rounds):
            bares.append(ask("bare"))
            agent.ask(f"on {EXCHANGE_EVERY * step_s}")
            peers.append(ask("peer"))
            agent.ask("off")
            exchanges += agent.told()
    ratios = [peer["per_s"] / bare["per_s"] for peer, bare in zip(peers, bares, strict=True)]
    steps = sum(peer["per_s"] * seconds for peer in peers)
    found = {
        "ratio": median(ratios),
        "peer_per_s": median(peer["per_s"] for peer in peers),
        "bare_per_s": median(bare["per_s"] for bare in bares),
        "copying_share": median(peer["copying_share"] for peer in peers),
        "steps_per_exchange": steps / exchanges if exchanges else 0.0,
    }
    print(f"{model.name:<16}", *(f"{value:>14.4f}" for value in found.values()), flush=True)
    return {f"{name}_{model.name}": round(value, 5) for name, value in found.items()}


def in_torch(python: str, batch: int, seconds: float, gpu: int) -> float | None:
    """Iterations a second of the same net in PyTorch; None where it is not."""
    command = [python, str(HERE.with_name("_torch_alexnet.py")), str(batch), str(seconds), str(gpu)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    return float(json.loads(done.stdout)) if done.returncode == 0 else None


def gpu_of(words: str) -> Gpu | None:
    """The GPU to measure on; None for the CPU. Raises GossipCaffeError where there is none."""
    if words == CPU:
        return None
    return chosen(asyncio.run(look_at_gpus()), int(words))


def main() -> int:
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpu", default="0", help="its number, or cpu to try the script itself")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument(
        "--net", default="alexnet", choices=("alexnet", "lenet"), help="lenet: to try the script"
    )
    parser.add_argument("--rounds", type=int, default=5, help="pairs of a bare and a peer's part")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each part")
    parser.add_argument("--torch-python", default=sys.executable, help="a Python that has torch")
    options = parser.parse_args()
    try:
        gpu = gpu_of(options.gpu)
    except GossipCaffeError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return ExitCode.ENVIRONMENT
    device = CPU if gpu is None else gpu_device(gpu.index)
    print(gpu.words() if gpu else "on the CPU: what follows says nothing of a GPU")
    nets = (
        [LENET]
        if options.net == "lenet"
        else [alexnet(options.batch, cudnn=cudnn) for cudnn in (True, False)]
    )
    print(f"{'':<16}", *(f"{heading:>14}" for heading in HEADINGS))
    found: dict[str, Any] = {"gpu": gpu.name if gpu else CPU}
    for model in nets:
        found |= measure(model, device, options.rounds, options.seconds)
    if gpu is not None and options.net == "alexnet":
        torch_per_s = in_torch(options.torch_python, options.batch, options.seconds, gpu.index)
        if torch_per_s is not None:
            found["torch_per_s"] = round(torch_per_s, 5)
            found["ratio_torch"] = round(found["peer_per_s_alexnet_cudnn"] / torch_per_s, 5)
    print(f"RESULT {json.dumps(found)}")
    return 0


HEADINGS = ("ratio", "peer its/s", "bare its/s", "copying share", "steps/exchange")


if __name__ == "__main__":
    sys.exit(main())
