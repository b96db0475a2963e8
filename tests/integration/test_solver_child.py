"""The solver as a real process: trained against a bare Caffe, killed, fed rubbish, corrected while idle."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from gossip_caffe.data.loader_port import LoaderProcess, PlannedBatch
from gossip_caffe.errors import SolverDied
from gossip_caffe.solver import solver_port
from gossip_caffe.solver.board import Flat, WeightBoard
from gossip_caffe.solver.checks.pycaffe_report import probe
from gossip_caffe.solver.engines.layout import WeightLayout
from gossip_caffe.solver.solver_port import SolverProcess
from tests.caffe_jobs import HIDDEN, MOMENTUM, Job, write_job

pytestmark = [pytest.mark.integration, pytest.mark.needs("caffe")]

DEADLINE_S = 60.0
ITERATIONS = 50
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}
INV = f'base_lr: 0.05 {MOMENTUM} lr_policy: "inv" gamma: 0.01 power: 0.75'
STEP = f'base_lr: 0.05 {MOMENTUM} lr_policy: "step" gamma: 0.5 stepsize: 15'
STILL = 'base_lr: 1e-30 lr_policy: "fixed"'

BARE = """
    import sys
    import caffe
    import numpy as np

    prototxt, iterations, start, result = sys.argv[1:]
    caffe.set_mode_cpu()
    solver = caffe.get_solver(prototxt)
    blobs = [blob.data for layer in solver.net.params.values() for blob in layer]
    at, weights = 0, np.load(start)
    for blob in blobs:
        blob[...] = weights[at : at + blob.size].reshape(blob.shape)
        at += blob.size
    solver.step(int(iterations))
    np.save(result, np.concatenate([blob.reshape(-1) for blob in blobs]))
"""


def bare_weights(job: Job, iterations: int, start: Flat, folder: Path) -> Flat:
    """Weights of plain Caffe, with its own data layer, in a process of its own."""
    np.save(folder / "start.npy", start)
    arguments = [str(job.bare), str(iterations), str(folder / "start.npy"), str(folder / "result.npy")]
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(BARE), *arguments],
        check=True,
        timeout=DEADLINE_S,
        env={**os.environ, **ENVIRONMENT, "GLOG_minloglevel": "2"},
    )
    result: Flat = np.load(folder / "result.npy")
    return result


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


class Peer:
    """What an agent has of a solver."""

    def __init__(self, job: Job, engine: str = "pycaffe") -> None:
        self.job = job
        self.engine = engine
        self.ring = job.ring()
        self.solvers: list[SolverProcess] = []

    async def solver(self, board: WeightBoard | None = None) -> tuple[SolverProcess, WeightLayout]:
        made = SolverProcess(
            self.job.engine_spec(self.engine), self.job.spec.schedule, self.ring, board, ENVIRONMENT
        )
        self.solvers.append(made)
        async with asyncio.timeout(DEADLINE_S):
            return made, await made.build()

    async def started(self, weights: Flat | None = None) -> SolverProcess:
        solver, _ = await self.solver()
        async with asyncio.timeout(DEADLINE_S):
            await solver.start(weights)
        return solver

    async def close(self) -> None:
        for solver in self.solvers:
            await solver.stop()


@pytest.fixture
async def peers() -> AsyncIterator[Callable[..., Peer]]:
    made: list[Peer] = []

    def make(job: Job, engine: str = "pycaffe") -> Peer:
        made.append(Peer(job, engine))
        return made[-1]

    yield make
    for peer in made:
        await peer.close()


Peers = Callable[..., Peer]


def snapshot_of(board: WeightBoard) -> Flat:
    out = np.empty(board.size, dtype=np.float32)
    board.snapshot(out)
    return out


async def end_of(solver: SolverProcess) -> tuple[int, str]:
    async with asyncio.timeout(DEADLINE_S):
        end = await solver.wait()
    return end.code, end.cause


@pytest.mark.parametrize("settings", [INV, STEP, f"{INV} iter_size: 2"], ids=["inv", "step", "iter_size"])
async def test_one_peers_weights_after_50_iterations_are_those_of_a_bare_caffe_solver_bit_for_bit(
    tmp_path: Path, peers: Peers, settings: str
) -> None:
    job = write_job(tmp_path, settings)
    peer = peers(job)
    solver = await peer.started()
    start = snapshot_of(solver.board)
    batches = ITERATIONS * job.spec.iter_size
    loader = LoaderProcess(job.spec.data, seed=1, ring=peer.ring)
    await loader.start()
    per_epoch = job.spec.data.records // job.spec.data.batch_records
    loader.plan(
        [
            PlannedBatch(number, ((number // per_epoch, first * 8, first * 8 + 8),))
            for number in range(batches)
            for first in [number % per_epoch]
        ]
    )
    await until(lambda: solver.board.batches == batches)
    await loader.stop()
    await solver.stop()
    assert (solver.board.published.iteration, solver.board.published.batches) == (ITERATIONS, batches)
    assert solver.board.samples == batches * 8
    assert np.array_equal(snapshot_of(solver.board), bare_weights(job, ITERATIONS, start, tmp_path))


@pytest.mark.parametrize("engine", ["pycaffe", "numpy"])
async def test_a_killed_solver_is_succeeded_from_the_board_without_losing_or_doubling_a_correction(
    tmp_path: Path, peers: Peers, engine: str
) -> None:
    peer = peers(write_job(tmp_path, STILL), engine)  # nothing moves the weights but corrections
    solver, layout = await peer.solver()
    initial = np.arange(1, layout.size + 1, dtype=np.float32)
    await solver.start(initial)
    board, ones = solver.board, np.ones(layout.size, dtype=np.float32)
    added = 0
    for life in range(4):
        # It is killed wherever it happens to be: in a step, adding a correction, publishing.
        for _ in range(20 * life + 1):
            board.add_correction(ones)
            added += 1
            peer.job.feed(peer.ring, min(2, peer.ring.slots - peer.ring.ready))
            assert np.array_equal(snapshot_of(board), initial + added)
            await asyncio.sleep(0)
        os.kill(solver.pid, signal.SIGKILL)
        assert await end_of(solver) == (-9, "the solver ended (killed by SIGKILL)")
        assert np.array_equal(snapshot_of(board), initial + added)
        kept = board.published.batches
        peer.ring.rewind(kept)
        solver, again = await peer.solver(board)
        assert again.fingerprint == layout.fingerprint
        await solver.start(None)
        assert np.array_equal(snapshot_of(board), initial + added)
        assert board.batches >= kept
    peer.job.feed(peer.ring, 5)
    last = peer.ring.head

    def settled() -> bool:
        board.pump()
        return board.published.batches == last and board.published.applied == board._words[16]

    await until(settled)
    await solver.stop()
    assert np.array_equal(snapshot_of(board), initial + added)


async def test_an_idle_solver_goes_on_adding_and_publishing_corrections(tmp_path: Path, peers: Peers) -> None:
    peer = peers(write_job(tmp_path, INV), "numpy")
    solver = await peer.started()
    board = solver.board
    for _ in range(3):
        applied = board.published.applied
        board.add_correction(np.ones(board.size, dtype=np.float32))
        await until(lambda applied=applied: board.published.applied > applied)  # type: ignore[misc]
    await until(lambda: board.stalled_s > 0)


async def test_stopping_ends_it_with_everything_published_also_while_it_waits(
    tmp_path: Path, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solver_port, "STOP_DEADLINE_S", 60.0)
    peer = peers(write_job(tmp_path, INV))
    solver = await peer.started()
    peer.job.feed(peer.ring, 3)
    await until(lambda: solver.board.batches == 3)
    await solver.stop()
    assert await end_of(solver) == (0, "the solver ended (exit 0)")
    assert solver.board.published.batches == 3


async def test_ctrl_c_is_the_agents_to_decide(tmp_path: Path, peers: Peers) -> None:
    peer = peers(write_job(tmp_path, INV), "numpy")
    solver = await peer.started()
    os.kill(solver.pid, signal.SIGINT)
    peer.job.feed(peer.ring, 2)
    await until(lambda: solver.board.batches == 2)


async def test_a_job_whose_last_batches_do_not_fill_an_iteration_trains_them_when_told(
    tmp_path: Path, peers: Peers
) -> None:
    peer = peers(write_job(tmp_path, f"{INV} iter_size: 3"))
    solver = await peer.started()
    peer.job.feed(peer.ring, 4)
    peer.job.feed(peer.ring, 1, records=5)
    await until(lambda: solver.board.batches == 3)
    solver.board.set_flush(True)
    await until(lambda: solver.board.published.batches == 5)
    assert (solver.board.iteration, solver.board.samples) == (2, 4 * 8 + 5)


@pytest.mark.parametrize("engine", ["pycaffe", "numpy"])
async def test_divergence_ends_it_with_one_line_and_a_remedy(
    tmp_path: Path, peers: Peers, engine: str
) -> None:
    job = write_job(tmp_path, 'base_lr: 3e38 lr_policy: "fixed"')
    peer = peers(job, engine)
    solver = await peer.started()
    peer.job.feed(peer.ring, 8)
    async with asyncio.timeout(DEADLINE_S):
        end = await solver.wait()
    assert (end.code, end.final) == (7, True)
    assert "training diverged: loss " in end.cause
    assert "at iteration" in end.cause
    assert "lower base_lr" in end.remedy


def broken(job: Job, old: str, new: str) -> Job:
    assert old in job.spec.solver_for_peer
    text = job.spec.solver_for_peer.replace(old, new, 1)
    return dataclasses.replace(job, spec=dataclasses.replace(job.spec, solver_for_peer=text))


REFUSED = [
    ('type: "ReLU"', 'type: "Foo"', "Unknown layer type: Foo", "a layer type that this Caffe has"),
    ("num_output: 10", "num_outputs: 10", 'no field named "num_outputs"', "correct the prototxt"),
    (
        'bottom: "conv" top: "ip"',
        'bottom: "cnov" top: "ip"',
        "Unknown bottom blob 'cnov' (layer 'ip'",
        "bottoms",
    ),
    ("kernel_size: 3", "kernel_size: 9", "shape[i] >= 0 (-2 vs. 0)", "sizes against its inputs"),
    ('bottom: "ip" bottom: "label" top: "loss"', 'bottom: "ip" top: "loss"', "bottom", ""),
    ('lr_policy: "inv"', 'lr_policy: "inv" type: "Boo"', "Unknown solver type: Boo", "SGD"),
    (
        'lr_policy: "inv"',
        'lr_policy: "inv" type: "AdaGrad"',
        "Momentum cannot be used with AdaGrad",
        "momentum: 0",
    ),
]


@pytest.mark.parametrize(
    ("old", "new", "cause", "remedy"), REFUSED, ids=[str(case[1]).replace('"', "") for case in REFUSED]
)
async def test_what_caffe_aborts_on_becomes_one_line_with_a_remedy(
    tmp_path: Path, peers: Peers, old: str, new: str, cause: str, remedy: str
) -> None:
    peer = peers(broken(write_job(tmp_path, INV), old, new))
    with pytest.raises(SolverDied) as caught:
        await peer.solver()
    assert caught.value.message.startswith("Caffe refused the model: ")
    assert cause in caught.value.message
    assert remedy in caught.value.remedy
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value), "no stack"


async def test_a_net_that_reads_a_missing_lmdb_itself_is_refused_by_name_of_the_matter(
    tmp_path: Path, peers: Peers
) -> None:
    source = 'data_param { source: "/nowhere" backend: LMDB batch_size: 2 }'
    more = f'layer {{ name: "more" type: "Data" top: "more" {source} }}'
    job = write_job(tmp_path, INV)
    peer = peers(broken(job, 'layer { name: "relu"', f'{more} layer {{ name: "relu"'))
    with pytest.raises(SolverDied, match="LMDB cannot be read: No such file or directory"):
        await peer.solver()


async def test_a_successor_of_another_size_is_refused(tmp_path: Path, peers: Peers) -> None:
    peer = peers(write_job(tmp_path, INV))
    with pytest.raises(SolverDied, match="weights, the dead one had 5"):
        await peer.solver(WeightBoard.create(5))


async def test_weights_from_a_checkpoint_are_what_it_starts_from(tmp_path: Path, peers: Peers) -> None:
    peer = peers(write_job(tmp_path, INV, net=HIDDEN))
    solver, layout = await peer.solver()
    given = np.linspace(-1, 1, layout.size, dtype=np.float32)
    await solver.start(given)
    assert np.array_equal(snapshot_of(solver.board), given)
    assert solver.board.published.batches == 0


def test_the_probe_says_which_caffe_this_is() -> None:
    report = probe()
    assert report.problem == ""
    assert report.extension
    assert report.layers > 50
    assert report.path.endswith("caffe/__init__.py")


def test_the_probe_says_why_caffe_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "caffe.py").write_text(
        "raise ImportError('libhdf5.so.103: cannot open shared object file')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    report = probe()
    assert report.problem == "import caffe fails: ImportError: libhdf5.so.103: cannot open shared object file"
    assert report.layers == 0
