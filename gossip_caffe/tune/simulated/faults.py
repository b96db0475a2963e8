"""Faults for simulated studies, and the check that nothing of a study was lost or counted twice."""

from __future__ import annotations

import random

from optuna.trial import TrialState as OptunaState

from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.tune.board.trial import TrialState
from gossip_caffe.tune.search.optuna_search import OptunaSearch
from gossip_caffe.tune.simulated.study import SimulatedStudy

_STATES = {
    TrialState.COMPLETE: OptunaState.COMPLETE,
    TrialState.PRUNED: OptunaState.PRUNED,
    TrialState.FAILED: OptunaState.FAIL,
}


async def disturb(study: SimulatedStudy, seed: int, every_s: float, for_s: float) -> None:
    """Deal faults for ``for_s`` virtual seconds, one about every ``every_s``; each killed worker is replaced."""
    rng = random.Random(f"{seed}: faults")
    until = study.clock.monotonic() + for_s
    while study.clock.monotonic() < until and study.living:
        await study.clock.sleep(rng.uniform(0.2, 2.0) * every_s)
        if not study.living:
            return
        target = rng.choice(study.living)
        match rng.choice(("kill", "kill", "kill", "leave", "peer", "cut", "away")):
            case "kill":
                target.kill()
                await study.clock.sleep(rng.uniform(0.0, 2.0))
                study.start_worker()
            case "leave":
                target.worker.leave("asked")
                study.start_worker()
            case "peer":
                for peer in target.peers:
                    peer.kill()
            case "cut":
                target.machine.store_cut = True
                await study.clock.sleep(rng.uniform(1.0, 20.0))
                target.machine.store_cut = False
            case _:
                study.etcd.unavailable = True
                await study.clock.sleep(rng.uniform(1.0, 30.0))
                study.etcd.unavailable = False
                if rng.random() < 0.5:
                    study.etcd.give_time()


async def faults_of(study: SimulatedStudy) -> list[str]:
    """The faults of a study that has ended; empty when every trial ended once, and everybody knows it."""
    found: list[str] = []
    board = await study.board()
    if sorted(board.trials) != list(range(study.study.trials)):
        found.append(f"trials {sorted(board.trials)} of {study.study.trials}")
    told = {trial.number: trial for trial in OptunaSearch(study.study, study.storage).trials()}
    for number, trial in board.trials.items():
        if not trial.state.is_end:
            found.append(f"trial {number} is {trial.state.value}")
            continue
        if study.ends[number] != 1:
            found.append(f"trial {number} ended {study.ends[number]} times")
        other = told.pop(number, None)
        if other is None or other.state is not _STATES[trial.state]:
            found.append(
                f"trial {number} is {trial.state.value}, and {other and other.state.name} for the search"
            )
        elif trial.state is TrialState.COMPLETE and other.value != trial.value:
            found.append(f"trial {number} has value {trial.value}, and {other.value} for the search")
        key = (
            JobKeys(trial.job).finished if trial.state is TrialState.COMPLETE else JobKeys(trial.job).stopped
        )
        if await study.store.get(key) is None:
            found.append(f"trial {number} is {trial.state.value}, and its job does not say so")
    found += [
        f"trial {number} is known to the search alone"
        for number, trial in told.items()
        if not trial.state.is_finished()
    ]
    if board.claims or board.helpers:
        found.append(f"claims {dict(board.claims)} and helpers {dict(board.helpers)} are left")
    if study.jobs.living:
        found.append(f"{len(study.jobs.living)} peers are left")
    return found
