"""What a solver notices of exchanges: its steps while its peer exchanges without pause, against steps without any.

    python benchmarks/never_wait.py [--nets lenet,244] [--rounds 10] [--seconds 2] [--tls]

The solver has a core of its own. On the other core there are by turns: agent and partner, which exchange without pause
or as often as by default; a solver that never exchanges; nobody.
docs/internals/benchmarks.md says what each figure means.
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
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from _full_ring import full_ring, refill
from _models import LENET, WIDE, Model, write_solver
from _plain_peer import NoFiles, PlainPeer, PlainWeights
from numpy.typing import NDArray

from gossip_caffe.addresses import with_name
from gossip_caffe.data.sources import source
from gossip_caffe.gossip.protocol.outcome import OutcomeKind
from gossip_caffe.gossip.transport.grpc_server import PeerServer
from gossip_caffe.gossip.transport.grpc_transport import GrpcTransport
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import JobSettings, JobSpec
from gossip_caffe.security.authority import Wanted, issue, make_authority
from gossip_caffe.security.files import files_in
from gossip_caffe.security.security import PLAIN, Security
from gossip_caffe.solver.board import WeightBoard
from gossip_caffe.solver.engines.engine import engine_spec
from gossip_caffe.solver.history import HistoryRoom
from gossip_caffe.solver.loop import SolverLoop

Flat = NDArray[np.float32]
Steps = list[tuple[float, float]]
"""Seconds and CPU seconds of each."""

ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "GLOG_minloglevel": "2"}
CODEC = "float16"
TLS = "NEVER_WAIT_TLS"
"""The folder of the two sides' certificates, for this script's other roles."""
WARM_UP = 3
"""Steps at the begin of each part that are not counted: what the part before left behind is still on its way."""
FEWEST = 8
"""Steps of a part that are counted, at the least."""
CORRECTIONS = 9
"""Corrections, snapshots and copies of momentum that are timed, beside as many copies of the model."""


# ── the solver ────────────────────────────────────────────────────────────────────────────────────────────────────────


class TimedSolver:
    """The product's solver loop on the product's Caffe engine, with batches that are always there."""

    def __init__(self, job: JobSpec) -> None:
        from gossip_caffe.solver.engines.pycaffe_engine import PycaffeEngine  # noqa: PLC0415 - only this child may load Caffe

        spec = engine_spec(job, "caffe")
        self._ring = full_ring(job)
        self._engine = PycaffeEngine(spec, self._ring)
        layout = self._engine.layout
        self.board = WeightBoard.create(layout.size, layout.exchanged)
        own_view = WeightBoard.attach(os.dup(self.board.fd), present=True)
        self._loop = SolverLoop(self._engine, spec, job.schedule, self._ring, own_view, time.monotonic)
        self._loop.start(fresh=True)

    def steps(self, seconds: float) -> list[tuple[float, float]]:
        """Seconds, and CPU seconds, of each iteration for so long, all that stands between two of them included."""
        took: list[tuple[float, float]] = []
        until = time.perf_counter() + seconds
        while (began := time.perf_counter()) < until or len(took) < WARM_UP + FEWEST:
            cpu = time.process_time()
            self._loop.between_steps()
            self._loop.step(self._loop.batches_due)
            took.append((time.perf_counter() - began, time.process_time() - cpu))
            refill(self._ring)
        return took[WARM_UP:]

    def stalls(self) -> dict[str, float]:
        """Seconds of what may stand between two steps, and of copying the model once; medians of some, by turns.

        Adding a correction; and what a checkpoint takes: a snapshot that is asked for, and momentum.
        """
        here, there = (np.zeros(self.board.size, dtype=np.float32) for _ in range(2))
        took: dict[str, list[float]] = {
            "correction_s": [],
            "snapshot_s": [],
            "momentum_s": [],
            "memcpy_s": [],
        }

        def timed(figure: str, do: Callable[[], object]) -> None:
            began = time.perf_counter()
            do()
            took[figure].append(time.perf_counter() - began)

        for _ in range(CORRECTIONS):
            timed("correction_s", lambda: self._engine.add_to_weights(here[: self.board.exchanged]))
            self._loop.step(self._loop.batches_due)
            refill(self._ring)
            self.board.request_publication()
            timed("snapshot_s", self._loop.between_steps)
            room = HistoryRoom(os.memfd_create("momentum", os.MFD_CLOEXEC), 4 * self.board.size)
            while not room.ready:
                time.sleep(0.01)
            timed("momentum_s", partial(self._fill, room))
            timed("memcpy_s", lambda: np.copyto(there, here))
        return {figure: median(seconds) for figure, seconds in took.items()}

    def _fill(self, room: HistoryRoom) -> None:
        room.fill(self._engine.history())


def solve(solver_file: str, control_fd: int) -> None:
    """Hand the board over, and then step for as long as asked, again and again."""
    job = read_job("never-wait", Path(solver_file), JobSettings(), source.measure)
    solver = TimedSolver(job)
    with socket.socket(fileno=control_fd) as control:
        socket.send_fds(control, [b"board"], [solver.board.fd])
    for line in sys.stdin:
        seconds = float(line)
        print(json.dumps(solver.steps(seconds) if seconds else solver.stalls()), flush=True)


def identity(name: str) -> Security:
    """The certificate of one of the two, where the run is one over TLS."""
    folder = os.environ.get(TLS, "")
    return Security(files_in(Path(folder) / name, TLS)) if folder else PLAIN


# ── the agent and its partner ─────────────────────────────────────────────────────────────────────────────────────────


async def answer(values: int) -> None:
    """Be the partner until stdin closes."""
    security = identity("b")
    server = PeerServer("127.0.0.1:0", NoFiles(), security=security)
    transport = GrpcTransport(security=security)
    server.serve(PlainPeer("b", PlainWeights(values, 2, scale=0.01), CODEC, transport).answering)
    print(await server.start(), flush=True)
    if security.tls is not None:
        server.hide_nearby()  # what does not leave the machine is not sealed
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()


async def exchange(board_fd: int, port: int) -> None:
    """Be the agent: between "on SECONDS" and "off" begin an exchange so often; then say how many were applied."""
    board = WeightBoard.attach(board_fd)
    security = identity("a")
    own = PlainPeer("a", board, CODEC, GrpcTransport(security=security))
    place = f"127.0.0.1:{port}"
    address = place if security.tls is None else with_name(place, "b")
    print(board.size, flush=True)
    while (line := await asyncio.to_thread(sys.stdin.readline)).startswith("on"):
        every_s = float(line.split()[1])
        off = asyncio.ensure_future(asyncio.to_thread(sys.stdin.readline))
        applied = own.offering.outcomes[OutcomeKind.APPLIED]
        while not off.done():
            due = asyncio.ensure_future(asyncio.sleep(every_s))
            await own.offering.offer_to("b", address)
            await asyncio.wait((off, due), return_when=asyncio.FIRST_COMPLETED)
        board.pump()
        print(own.offering.outcomes[OutcomeKind.APPLIED] - applied, flush=True)


# ── all of them ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Role:
    """This script, or another one, in another role, on the given cores."""

    def __init__(
        self, cores: set[int], *arguments: object, fds: tuple[int, ...] = (), script: str = __file__
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, script, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=fds,
            env={**os.environ, **ONE_THREAD},
        )
        os.sched_setaffinity(self._process.pid, cores)  # before it has any thread

    def ask(self, line: object) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def told(self) -> Any:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise SystemExit("a child ended; see its message above")
        return json.loads(line)

    def end(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def solver_on(core: int, solver_file: Path) -> tuple[Role, int]:
    """A solver, and a descriptor of its board."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            solver = Role({core}, "--solve", solver_file, theirs.fileno(), fds=(theirs.fileno(),))
        _, fds, _, _ = socket.recv_fds(ours, 16, 1)
    if not fds:
        raise SystemExit("the solver did not start; see its message above")
    return solver, fds[0]


def measure(name: str, model: Model, rounds: int, seconds: float, cores: list[int]) -> dict[str, float]:
    parts: dict[str, list[Steps]] = {kind: [] for kind in KINDS}
    exchanges = dict.fromkeys(EXCHANGING, 0)
    with tempfile.TemporaryDirectory(prefix="gossip-caffe-never-wait-") as folder, ExitStack() as ending:

        def begun(role: Role) -> Role:
            ending.callback(role.end)
            return role

        solver_file = write_solver(model, Path(folder), max_iter=1_000_000)
        solver, board_fd = solver_on(cores[1], solver_file)
        neighbour, other_fd = solver_on(cores[0], solver_file)
        begun(solver), begun(neighbour)
        os.close(other_fd)
        partner = begun(Role({cores[0]}, "--answer", WeightBoard.attach(os.dup(board_fd)).exchanged))
        agent = begun(Role({cores[0]}, "--exchange", board_fd, partner.told(), fds=(board_fd,)))
        agent.told()
        os.close(board_fd)
        for _ in range(2):  # the first steps touch fresh memory
            solver.ask(seconds)
            step_s = float(np.median(np.array(solver.told())[:, 0]))
        for turn in range(len(KINDS) * rounds):
            kind = KINDS[turn % len(KINDS)]
            if kind in EXCHANGING:
                agent.ask(f"on {EXCHANGING[kind] * step_s}")
            elif kind == "stepping":
                neighbour.ask(seconds)
            solver.ask(seconds)
            parts[kind].append(solver.told())
            if kind in EXCHANGING:
                agent.ask("off")
                exchanges[kind] += agent.told()
            elif kind == "stepping":
                neighbour.told()
        solver.ask(0)
        stalls = solver.told()
    found = compared(parts["exchanging"], parts["stepping"], "")
    found |= compared(parts["exchanging"], parts["idle"], "_to_idle")
    found |= compared(parts["default"], parts["idle"], "_default")
    found |= {
        "step_p50_s": float(np.median(np.concatenate(parts["stepping"])[:, 0])),
        "exchanges_per_step": exchanges["exchanging"] / sum(map(len, parts["exchanging"])),
        **stalls,
        **{
            f"{what}_over_memcpy": stalls[f"{what}_s"] / stalls["memcpy_s"]
            for what in ("correction", "snapshot", "momentum")
        },
    }
    print(f"{name:>6} {sum(map(len, parts['exchanging'])):>6}", end="")
    print(*(f"{figure:>12.5f}" for figure in found.values()), flush=True)
    return {f"{figure}_{name}": round(value, 5) for figure, value in found.items()}


def compared(exchanging: list[Steps], others: list[Steps], to: str) -> dict[str, float]:
    """Medians are compared part by part, for a machine's pace drifts; the slowest hundredth over all parts."""
    medians = np.array([[np.median(part, axis=0) for part in parts] for parts in (exchanging, others)])
    slowest = [np.percentile(np.concatenate(parts), 99, axis=0) for parts in (exchanging, others)]
    (wall_p50, cpu_p50), (wall_p99, cpu_p99) = (
        np.median(medians[0] / medians[1], axis=0),
        slowest[0] / slowest[1],
    )
    return {
        f"ratio_p50{to}": float(wall_p50),
        f"cpu_ratio_p50{to}": float(cpu_p50),
        f"ratio_p99{to}": float(wall_p99),
        f"cpu_ratio_p99{to}": float(cpu_p99),
    }


NETS = {"lenet": LENET, "244": WIDE}
HEADINGS = (
    *("p50", "of CPU", "p99", "of CPU"),
    *("p50 to idle", "of CPU", "p99 to idle", "of CPU"),
    *("p50 default", "of CPU", "p99 default", "of CPU"),
    *("step p50 s", "exchanges", "correction s", "snapshot s", "momentum s", "memcpy s"),
    *("correction", "snapshot", "momentum"),
)
KINDS = ("idle", "exchanging", "stepping", "default")
"""What happens on the other core, by turns."""
EXCHANGING = {"exchanging": 0, "default": JobSettings().exchange_every_iterations}
"""Every how many steps an exchange begins."""


def main() -> int:
    match sys.argv[1:]:
        case ["--solve", solver_file, control_fd]:
            solve(solver_file, int(control_fd))
            return 0
        case ["--answer", values]:
            asyncio.run(answer(int(values)))
            return 0
        case ["--exchange", board_fd, port]:
            asyncio.run(exchange(int(board_fd), int(port)))
            return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", default=",".join(NETS), help=f"which of {', '.join(NETS)}")
    parser.add_argument("--rounds", type=int, default=10, help="how often each kind of part comes")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each part, at the least")
    parser.add_argument("--tls", action="store_true", help="exchange over TLS, by TCP")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        print("this needs two cores: the solver has one of its own", file=sys.stderr)
        return 1
    print(
        f"{'net':>8} {'alone':>7} {'beside':>7} {'exchanges':>9}", *(f"{heading:>12}" for heading in HEADINGS)
    )
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="gossip-caffe-never-wait-") as folder:
        if options.tls:
            make_authority(Path(folder) / "ca", "bench", timedelta(days=1))
            for side in ("a", "b"):
                issue(Path(folder) / "ca", Wanted((side,)), Path(folder) / side, timedelta(days=1))
            os.environ[TLS] = folder
        for name in options.nets.split(","):
            found |= measure(name, NETS[name], options.rounds, options.seconds, cores)
    print(f"RESULT {json.dumps(found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
