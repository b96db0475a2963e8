"""Ranks of whole peers on virtual time: agents that come, die, and lose their lease while they train."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gossip_caffe.data.sources import source
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import JobSettings, JobSpec
from gossip_caffe.observe.history.account import account
from gossip_caffe.sim.job import SimulatedJob
from gossip_caffe.sim.peer import Pace
from gossip_caffe.sim.virtual_time import run
from gossip_caffe.solver.engines.numpy_engine import NumpyEngine
from gossip_caffe.solver.engines.place import LayerRank
from tests.tiny_job import write_job

PACE = Pace(0.05)
ITERATIONS = 1000
BATCH = 16


def spec_in(folder: Path, ranks: int) -> JobSpec:
    job = write_job(folder / "job", records=400, batch=BATCH, iterations=ITERATIONS)
    return dataclasses.replace(read_job("tiny", job.solver, JobSettings(), source.measure), ranks=ranks)


def trained(folder: Path, ranks: int, course: Callable[[SimulatedJob], Awaitable[None]]) -> SimulatedJob:
    """Three peers, what happens to them, and the rest of the job; whatever happens, each record is trained."""
    spec = spec_in(folder, ranks)

    async def whole() -> SimulatedJob:
        job = SimulatedJob(spec, folder / "run", NumpyEngine, seed=1)
        try:
            for index in range(3):
                await job.start(f"p{index}", PACE)
                await job.clock.sleep(1.0)
            assert places(job, "p0", "p1", "p2") == [LayerRank(number, ranks) for number in range(3)]
            await course(job)
            await job.finished()
            logs = {name: log.events for name, log in job.logs.items()}
            assert account(logs, spec).records_lost == 0
            return job
        finally:
            job.close()

    return run(whole())


def places(job: SimulatedJob, *names: str) -> list[LayerRank]:
    return [job.peers[name].trainer.place for name in names]


async def until(job: SimulatedJob, condition: Callable[[], bool], what: str) -> None:
    for _ in range(300):
        if condition():
            return
        await job.clock.sleep(0.1)
    pytest.fail(f"not within 30 virtual seconds: {what}")


def test_a_joiner_waits_for_the_rank_of_a_peer_that_was_killed(tmp_path: Path) -> None:
    async def course(job: SimulatedJob) -> None:
        job.kill("p1")
        joiner = await job.start("p3", PACE)
        await until(job, lambda: joiner.trains, "the joiner trains")
        assert joiner.trainer.place == LayerRank(1, 3)
        assert joiner.trainer.passes > 0, "it goes on about where its rank is"

    trained(tmp_path, 3, course)


def test_one_that_comes_beyond_the_ranks_shares_one_and_trains(tmp_path: Path) -> None:
    async def course(job: SimulatedJob) -> None:
        more = await job.start("p3", PACE)
        await until(job, lambda: more.trains, "it trains")
        assert more.trainer.place == LayerRank(3, 3)
        assert more.trainer.place.is_shared

    trained(tmp_path, 3, course)


def test_a_peer_whose_rank_another_took_with_its_lease_goes_on_with_another_and_a_new_solver(
    tmp_path: Path,
) -> None:
    async def course(job: SimulatedJob) -> None:
        await until(job, lambda: job.peers["p1"].trains, "it trains")
        job._etcd.revoke(job.peers["p1"]._agent._lease())  # as a store does that is asked for no renewal
        joiner = await job.start("p3", PACE)
        await until(
            job, lambda: places(job, "p1", "p3") == [LayerRank(3, 4), LayerRank(1, 4)], "ranks of their own"
        )
        await until(job, lambda: job.peers["p1"].trainer.solver_restarts == 1, "its layers are told")
        await until(job, lambda: joiner.trains and job.peers["p1"].trains, "both train")
        assert job.peers["p0"].trainer.solver_restarts == 0

    trained(tmp_path, 4, course)


def test_a_peer_that_registers_again_keeps_its_rank_and_its_solver_while_nobody_takes_it(
    tmp_path: Path,
) -> None:
    async def course(job: SimulatedJob) -> None:
        peer = job.peers["p1"]
        await until(job, lambda: peer.trains, "it trains")
        job._etcd.revoke(before := peer._agent._lease())
        await until(job, lambda: peer._agent._lease() != before, "it has registered again")
        await job.clock.sleep(2.0)
        assert (peer.trainer.place, peer.trainer.solver_restarts) == (LayerRank(1, 3), 0)

    trained(tmp_path, 3, course)
