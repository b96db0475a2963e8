"""Whole studies on virtual time, with workers that are killed, cut off and replaced: no trial is lost or counted twice.

$GOSSIP_CAFFE_STUDY_SEEDS runs so many seeds.
"""

from __future__ import annotations

import os

import pytest

from gossip_caffe.background import within
from gossip_caffe.sim.virtual_time import run
from gossip_caffe.tune.search.optuna_import import require_optuna
from tests.tuning import bare_study, learn

require_optuna()

from gossip_caffe.tune.board.trial import TrialState  # noqa: E402 - needs Optuna
from gossip_caffe.tune.simulated.faults import disturb, faults_of  # noqa: E402
from gossip_caffe.tune.simulated.study import SimulatedStudy  # noqa: E402
from gossip_caffe.tune.study.spec import Pruner, Sampler  # noqa: E402

SEEDS = int(os.environ.get("GOSSIP_CAFFE_STUDY_SEEDS", "6"))


async def disturbed(seed: int) -> tuple[list[str], list[str]]:
    """What is wrong after a study with faults, and what its workers said."""
    study = bare_study(
        pruner=Pruner(("asha", "none", "median", "hyperband")[seed % 4]),
        sampler=Sampler(("tpe", "random", "grid")[seed % 3]),
        seed=seed,
        peers=3,
    )
    simulated = SimulatedStudy(study, learn, seed=seed)
    await simulated.begin()
    try:
        for _ in range(3):
            simulated.start_worker()
        async with within(disturb(simulated, seed, every_s=6.0, for_s=150.0)):
            await simulated.until_ended(3000.0)
        await simulated.clock.sleep(10.0)  # the leases of killed workers end
        return await faults_of(simulated), simulated.said
    finally:
        await simulated.close()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_trial_is_lost_and_none_is_counted_twice(seed: int) -> None:
    wrong, said = run(disturbed(seed))
    assert not wrong, "\n".join([*wrong, *said[-60:]])


def test_the_same_seed_gives_the_same_history() -> None:
    assert run(disturbed(3)) == run(disturbed(3))


def test_three_workers_without_etcd_for_30_s_lose_nothing() -> None:
    async def course() -> None:
        simulated = SimulatedStudy(bare_study(pruner=Pruner("none")), learn, samples_per_s=40.0)
        await simulated.begin()
        try:
            for _ in range(3):
                simulated.start_worker()
            for _ in range(3):
                await simulated.clock.sleep(25.0)
                simulated.etcd.unavailable = True
                await simulated.clock.sleep(30.0)
                simulated.etcd.unavailable = False
            await simulated.until_ended(3000.0)
            await simulated.clock.sleep(10.0)
            assert await faults_of(simulated) == []
            assert all(one.state is TrialState.COMPLETE for one in (await simulated.board()).trials.values())
            # Peers train on without etcd, and their workers come back to them: nothing is trained twice.
            assert simulated.jobs.trained == pytest.approx(12 * 2000, rel=0.01)
        finally:
            await simulated.close()

    run(course())


def test_idle_workers_join_and_the_last_trials_end_sooner() -> None:
    async def tail(may_help: bool) -> float:
        study = bare_study(trials=4, pruner=Pruner("none"), samples=12_000, peers=3)
        simulated = SimulatedStudy(study, learn, may_help=may_help)
        await simulated.begin()
        try:
            for _ in range(3):
                simulated.start_worker()
            await simulated.until_ended(3000.0)
            assert await faults_of(simulated) == []
            return simulated.now_s
        finally:
            await simulated.close()

    assert run(tail(True)) < 0.8 * run(tail(False))
