"""Peers that gossip learn as much from the same number of samples as one bare Caffe solver does.

The peers are the product's own agents and Caffe's own solvers; only time, network and store are virtual, so a seed has
one result. Differences are paired by seed: with three seeds their mean is known to about 0.25 points. Two
processes share the courses. ``GOSSIP_CAFFE_LEARNING_SEEDS=16`` asks for more seeds, all courses, and longer ones.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor

import pytest

from gossip_caffe.sim.training_comparison import TrainingComparison, TrainingResult, by_gossip, by_one_solver
from tests.digits_course import write_course

ASKED = os.environ.get("GOSSIP_CAFFE_LEARNING_SEEDS", "")
SEEDS = range(1, 1 + int(ASKED or 3))
EPOCHS = 60 if ASKED else 40
STEP_S = 0.01
MESSAGE_S = (0.005, 0.02)
"""An exchange takes one to four iterations."""
GATE_POINTS = 0.7
SLOWER = 4.0

COURSES: dict[str, tuple[tuple[float, ...], Mapping[str, str]]] = {
    "4 peers": ((STEP_S,) * 4, {}),
    "8 peers": ((STEP_S,) * 8, {}),
    "4 peers, int8": ((STEP_S,) * 4, {"codec": "int8"}),
    "4 peers, one slow": ((*(STEP_S,) * 3, SLOWER * STEP_S), {}),
}
if ASKED:
    COURSES["8 peers, int8"] = ((STEP_S,) * 8, {"codec": "int8"})
    COURSES["4 peers, fixed"] = ((STEP_S,) * 4, {"cadence": "fixed"})
    COURSES["8 peers, fixed"] = ((STEP_S,) * 8, {"cadence": "fixed"})
SLOW_ONE = "p3"

pytestmark = pytest.mark.xdist_group("learning")  # the courses are trained once

Results = Mapping[str, Mapping[int, "Future[TrainingResult]"]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    """Every course with every seed, under way; the bare solver's are under "one"."""
    quiet = {"OPENBLAS_NUM_THREADS": "1", "GLOG_minloglevel": "2"}
    with pytest.MonkeyPatch.context() as patched:
        for name, value in quiet.items():
            patched.setenv(name, value)
        spawning = multiprocessing.get_context("spawn")  # Caffe's threads do not survive a fork
        with ProcessPoolExecutor(2, spawning) as pool:
            found: dict[str, dict[int, Future[TrainingResult]]] = {name: {} for name in ("one", *COURSES)}
            for seed in SEEDS:
                solver = write_course(tmp_path_factory.mktemp(f"seed{seed}"), seed=seed, epochs=EPOCHS)
                found["one"][seed] = pool.submit(by_one_solver, TrainingComparison(solver, seed, ()))
                for name, (steps_s, settings) in COURSES.items():
                    course = TrainingComparison(solver, seed, steps_s, settings, MESSAGE_S)
                    found[name][seed] = pool.submit(by_gossip, course)
            yield found
            pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("course", COURSES)
def test_peers_learn_what_one_bare_solver_learns_from_as_many_samples(results: Results, course: str) -> None:
    gaps = [
        results["one"][seed].result().accuracy - results[course][seed].result().accuracy for seed in SEEDS
    ]
    exchanges = statistics.mean(results[course][seed].result().exchanges for seed in SEEDS)
    print(f"{course}: {statistics.mean(gaps):+.2f} points lost ({gaps}) at {exchanges:.0f} exchanges")
    accuracies = [results["one"][seed].result().accuracy for seed in SEEDS]
    assert statistics.mean(accuracies) > 97.0  # or there would be nothing to lose
    assert statistics.mean(gaps) <= GATE_POINTS, f"points lost by seed: {gaps}"


@pytest.mark.parametrize("course", COURSES)
def test_peers_train_the_budget_once_and_exchange_on_the_way(results: Results, course: str) -> None:
    for seed in SEEDS:
        one, peers = results["one"][seed].result(), results[course][seed].result()
        least = sum(one.iterations.values())
        # Whole batches of the budget, and a few that were cut short when the data was used up.
        assert least <= sum(peers.iterations.values()) <= 1.02 * least
        assert peers.exchanges > least / 16
        assert 0 < peers.distance < 1e-2


def test_a_slow_peer_costs_the_fast_ones_no_pace_and_trains_as_much_less_as_it_is_slower(
    results: Results,
) -> None:
    for seed in SEEDS:
        alike, mixed = results["4 peers"][seed].result(), results["4 peers, one slow"][seed].result()
        for name in sorted(alike.steady_per_s.keys() - {SLOW_ONE}):
            assert mixed.steady_per_s[name] >= 0.97 * alike.steady_per_s[name], name
            assert mixed.steady_per_s[name] * STEP_S >= 0.97, name
        assert mixed.steady_per_s[SLOW_ONE] * STEP_S * SLOWER == pytest.approx(1.0, abs=0.03)
