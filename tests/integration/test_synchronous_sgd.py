"""The synchronous strategy beside plain Caffe: four peers are one solver with ``iter_size: 4`` on the same records."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gossip_caffe.solver.solver_port import SolverProcess
from tests.caffe_jobs import Job, write_job
from tests.one_peer import DEADLINE_S, ENVIRONMENT, bare
from tests.round_peers import RoundPeers, feed, sharing

pytestmark = pytest.mark.needs("caffe")

PEERS = 4
SGD = 'base_lr: 0.05 momentum: 0.9 weight_decay: 0.0005 lr_policy: "fixed"'
SOLVERS = {"SGD": SGD, "Nesterov": f'type: "Nesterov" {SGD}'}


class FedSolver:
    """A real solver with a ring that the test fills."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.ring = job.ring(slots=64)
        self.solver = SolverProcess(job.engine_spec(), job.spec.schedule, self.ring, None, dict(ENVIRONMENT))
        self.fed = 0

    async def feed(self, own: int, upto: int) -> None:
        """Feed the batches of this peer's first ``upto`` iterations, as the ring has room."""
        while self.fed < upto:
            if self.ring.ready < 32:
                feed(self.ring, self.job.data, self.job.labels, [self.fed * PEERS + own])
                self.fed += 1
            else:
                await asyncio.sleep(0.005)


async def trained(job: Job, iterations: int, start: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The weights of four peers after so many iterations, with a round after each."""
    solvers = {f"p{index}": FedSolver(job) for index in range(PEERS)}
    try:
        for fed in solvers.values():
            await fed.solver.build()
            await fed.solver.start(start)
        async with sharing({name: fed.solver.board for name, fed in solvers.items()}) as view:
            feeding = [fed.feed(index, iterations) for index, fed in enumerate(solvers.values())]
            async with asyncio.timeout(DEADLINE_S):
                await asyncio.gather(*feeding)
                await _until_all_have(view, iterations)
            return [peer.weights() for peer in view.peers.values()]
    finally:
        await asyncio.gather(*(fed.solver.stop() for fed in solvers.values()))


async def _until_all_have(view: RoundPeers, iterations: int) -> None:
    """Wait until all peers have applied a round after their last iteration."""
    while not all(
        peer.rounds() and peer.board.iteration == iterations and peer.rounds()[-1]["batches"] == iterations
        for peer in view.peers.values()
    ):
        await asyncio.sleep(0.01)


def apart(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """The distance of two vectors, in lengths of the second."""
    return float(np.linalg.norm(one.astype(np.float64) - other) / np.linalg.norm(other.astype(np.float64)))


@pytest.mark.parametrize("kind", SOLVERS)
@pytest.mark.parametrize(("iterations", "most"), [(20, 1e-6), (200, 1e-4)])
async def test_four_peers_train_as_one_caffe_with_iter_size_four(
    tmp_path: Path, kind: str, iterations: int, most: float
) -> None:
    (tmp_path / "peers").mkdir()
    (tmp_path / "caffe").mkdir()
    job = write_job(tmp_path / "peers", SOLVERS[kind])
    caffe_job = write_job(tmp_path / "caffe", f"{SOLVERS[kind]} iter_size: {PEERS}")
    one = FedSolver(job)
    layout = await one.solver.build()
    await one.solver.start(None)
    start = np.empty(layout.size, dtype=np.float32)
    one.solver.board.snapshot(start)
    await one.solver.stop()

    peers = await trained(job, iterations, start)

    caffes = bare(caffe_job.bare, iterations, layout, tmp_path, start)
    assert max(apart(weights, caffes.weights) for weights in peers) <= most
    assert apart(caffes.weights, start) > 0.01, "Caffe has learned nothing"
    if iterations == 20:
        again = await trained(job, iterations, start)
        assert all(np.array_equal(a, b) for a, b in zip(peers, again, strict=True))
