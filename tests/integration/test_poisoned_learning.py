"""A quarter of all offers and answers is poison for a whole digits job, and it learns what it learns in peace.

As in test_learning.py the peers are the product's own agents and Caffe's own solvers, on virtual time. And the honest
extremes: nobody who is well is taken for poison.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor

import pytest

from gossip_caffe.sim.faults.poisoning import Poison
from gossip_caffe.sim.training_comparison import TrainingComparison, TrainingResult, by_gossip
from tests.digits_course import write_course

EPOCHS = 40
STEP_S = 0.01
MESSAGE_S = (0.005, 0.02)
POINTS = 1.0
HONEST_SHARE = 0.005
RATE = 0.05
SEEDS = (1, 2, 3, 4)
CERTIFIED = tuple(map(Poison, os.environ.get("POISON_CERTIFIED", "zeros,stale").split(",")))
"""The ways that are tried with certificates, too: what is too long is cut then, and what comes too often refused."""

pytestmark = [
    pytest.mark.xdist_group("poisoned learning"),  # the courses are trained once
    pytest.mark.timeout(600),
]

Results = dict[str, "Future[TrainingResult]"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OPENBLAS_NUM_THREADS", "1")
        patched.setenv("GLOG_minloglevel", "2")
        spawning = multiprocessing.get_context("spawn")  # Caffe's threads do not survive a fork
        with ProcessPoolExecutor(2, spawning) as pool:
            solver = write_course(tmp_path_factory.mktemp("usual"), seed=1, epochs=EPOCHS, rate=RATE)
            fast = write_course(tmp_path_factory.mktemp("fast"), seed=1, epochs=EPOCHS, rate=3 * RATE)
            steps_s = (STEP_S,) * 4
            rare = {"cadence": "fixed", "exchange_every_iterations": "64"}
            courses = {
                "peace": TrainingComparison(solver, 1, steps_s, {}, MESSAGE_S),
                "H = 64": TrainingComparison(solver, 1, steps_s, rare, MESSAGE_S),
                "rate x 3": TrainingComparison(fast, 1, steps_s, {}, MESSAGE_S),
                # who joins begins with a checkpoint that is a fifth of the job old
                "churn": TrainingComparison(
                    solver, 1, steps_s, {"checkpoint_every_samples": "12000"}, MESSAGE_S, 3.0, 1.0
                ),
            }
            for seed in SEEDS:
                courses[f"rate x 3, H = 64, seed {seed}"] = TrainingComparison(
                    fast, seed, steps_s, rare, MESSAGE_S
                )
            for poison in Poison:
                courses[poison.value] = TrainingComparison(
                    solver, 1, steps_s, {}, MESSAGE_S, poison=poison.value
                )
            for poison in CERTIFIED:
                courses[f"{poison.value}, certified"] = TrainingComparison(
                    solver, 1, steps_s, {}, MESSAGE_S, poison=poison.value, certified=True
                )
            yield {name: pool.submit(by_gossip, course) for name, course in courses.items()}
            pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("poison", Poison)
def test_a_quarter_of_all_contacts_may_be_poison(results: Results, poison: Poison) -> None:
    peace, found = results["peace"].result(), results[poison.value].result()
    print(
        f"{poison}: {found.accuracy:.2f}% (in peace {peace.accuracy:.2f}%), {found.spoilt} spoilt, "
        f"{found.too_far} too far, {found.healed} healed, {found.exchanges} applied"
    )
    assert peace.accuracy > 95.0
    assert found.spoilt > 100
    assert found.accuracy >= peace.accuracy - POINTS
    assert len(found.iterations) == 4  # nobody ended, and was started again


@pytest.mark.parametrize("poison", CERTIFIED)
def test_a_quarter_of_all_contacts_may_be_poison_of_members(results: Results, poison: Poison) -> None:
    peace, found = results["peace"].result(), results[f"{poison.value}, certified"].result()
    print(
        f"{poison}, certified: {found.accuracy:.2f}% (in peace {peace.accuracy:.2f}%), {found.spoilt} spoilt, "
        f"{found.too_far} too far, {found.healed} healed, {found.exchanges} applied"
    )
    assert found.spoilt > 100
    assert found.accuracy >= peace.accuracy - POINTS


@pytest.mark.parametrize("course", ["peace", "H = 64", "rate x 3", "rate x 3, H = 64", "churn"])
def test_hardly_an_honest_half_is_refused(results: Results, course: str) -> None:
    """The two extremes at once make few exchanges, so that takes some seeds."""
    all_found = [future.result() for name, future in results.items() if name.split(", seed")[0] == course]
    too_far = sum(found.too_far for found in all_found)
    halves = 2 * sum(found.exchanges for found in all_found) + too_far
    accuracies = [f"{found.accuracy:.2f}%" for found in all_found]
    print(f"{course}: {too_far} of {halves} halves refused, {', '.join(accuracies)}")
    assert halves > 100
    assert too_far <= HONEST_SHARE * halves
    assert not any(found.healed for found in all_found)
