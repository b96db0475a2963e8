"""The time that is left, on virtual time: within a factor of two of the truth, however long an iteration takes."""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from gossip_caffe.cluster.figures import Figures
from gossip_caffe.peer.checkpoints.awaited import Facts, awaited
from gossip_caffe.peer.work.throughput import PRESENT, STEADY, Gain, Throughput, rate_of
from tests.watch import Watch

BATCH = 256
REPORT_S, LOOK_S = 1.0, 0.5
GRANULE_S = 2.0
"""A report every second, and a look every half: the end of a training cannot be told more precisely."""


@dataclass(frozen=True, slots=True)
class Course:
    """The work of one peer: the ends of its iterations (s), and the holds for tests: (begin, end)."""

    ends: tuple[float, ...]
    holds: tuple[tuple[float, float], ...] = ()

    def samples(self, now: float) -> int:
        return BATCH * bisect.bisect_right(self.ends, now)

    def held_s(self, now: float) -> float:
        return sum(min(end, now) - begin for begin, end in self.holds if begin < now)


def course(
    step_s: float,
    iterations: int,
    *,
    seed: int = 0,
    jitter: float = 0.2,
    start_s: float = 3.0,
    tests_every: int = 0,
    test_s: float = 0.0,
) -> Course:
    """A training that begins after ``start_s``, and whose first iteration takes three times as long."""
    rng = random.Random(seed)
    now, ends, holds = start_s, [], []
    for iteration in range(1, iterations + 1):
        now += step_s * rng.uniform(1 - jitter, 1 + jitter) * (3 if iteration == 1 else 1)
        ends.append(now)
        if tests_every and iteration % tests_every == 0:
            holds.append((now, now + test_s))
            now += test_s
    return Course(tuple(ends), tuple(holds))


@dataclass(frozen=True, slots=True)
class Told:
    """The figures that a screen shows at a look."""

    now: float
    done_samples: int
    left_s: float


def told(
    courses: list[Course], *, tests: int = 0, test_s: float = 0.0, look_s: float = LOOK_S
) -> Iterator[Told]:
    """All that a screen shows, look after look."""
    clock = Watch()
    peers = [Throughput(clock) for _ in courses]
    budget = budget_of(courses)
    figures, reported_at = Figures(), 0.0
    for look in range(int(end_of(courses) / look_s) + 1):
        clock.now = look * look_s
        if clock.now >= reported_at + REPORT_S:
            reported_at = clock.now
            for peer, one in zip(peers, courses, strict=True):
                peer.note(one.samples(clock.now), 0.0, one.held_s(clock.now))
            holds = [hold for one in courses for hold in one.holds]
            made = sum(end <= clock.now for _, end in holds)
            running_s = sum(clock.now - begin for begin, end in holds if begin < clock.now < end)
            figures = Figures(
                done_samples=sum(one.samples(clock.now) for one in courses),
                steady_samples_per_s=sum(peer.steady_samples_per_s for peer in peers),
                begun_samples=sum(peer.begun_samples for peer in peers),
                # Before the first test the length of a test is unknown.
                tests_ahead_s=(tests - made) * test_s - running_s if made else 0.0,
            )
        yield Told(clock.now, figures.done_samples, figures.seconds_left(budget))


def budget_of(courses: list[Course]) -> int:
    return BATCH * sum(len(one.ends) for one in courses)


def end_of(courses: list[Course]) -> float:
    return max(max([one.ends[-1], *(end for _, end in one.holds)]) for one in courses)


def worst(
    courses: list[Course],
    *,
    tests: int = 0,
    test_s: float = 0.0,
    look_s: float = LOOK_S,
    after_s: float = 0.0,
    to_s: float = GRANULE_S,
) -> float:
    """The largest factor between the time that was told and the truth, from 10% on; errors up to ``to_s`` are none."""
    factor = 1.0
    for seen in told(courses, tests=tests, test_s=test_s, look_s=look_s):
        truth_s = end_of(courses) - seen.now
        if seen.done_samples < 0.1 * budget_of(courses) or seen.now < after_s:
            continue
        if abs(seen.left_s - truth_s) > to_s:
            low, high = sorted((seen.left_s, truth_s))
            factor = max(factor, high / max(low, 1e-9))
    return factor


@pytest.mark.parametrize(
    ("step_s", "iterations"),
    [(0.001, 60_000), (0.001, 400_000), (1.0, 60), (1.0, 1000), (25.0, 20), (25.0, 100)],
)
def test_from_a_tenth_on_it_is_within_a_factor_of_two(step_s: float, iterations: int) -> None:
    assert worst([course(step_s, iterations, jitter=0.02)]) < 2.0


@pytest.mark.parametrize(("step_s", "iterations"), [(0.001, 60_000), (1.0, 200), (25.0, 40)])
def test_of_several_peers_it_is_so_too_down_to_one_iteration(step_s: float, iterations: int) -> None:
    courses = [course(step_s, iterations, seed=seed, jitter=0.02) for seed in range(3)]
    assert worst(courses, to_s=max(GRANULE_S, step_s)) < 2.0  # one peer may make the last iteration alone


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("step_s", [0.003, 0.7, 4.0, 25.0])
def test_iterations_may_vary_by_a_half(seed: int, step_s: float) -> None:
    one = course(step_s, 100 if step_s > 1 else int(100 / step_s), seed=seed, jitter=0.5)
    assert (
        worst([one], to_s=max(GRANULE_S, step_s)) < 2.0
    )  # nothing tells how long the last iteration will take


@pytest.mark.parametrize(
    ("step_s", "iterations", "test_s"), [(0.001, 100_000, 20.0), (1.0, 200, 30.0), (25.0, 100, 600.0)]
)
def test_the_tests_of_a_lone_peer_count_as_time_and_not_as_slowness(
    step_s: float, iterations: int, test_s: float
) -> None:
    one = course(step_s, iterations, tests_every=iterations // 20, test_s=test_s, jitter=0.02)
    assert worst([one], tests=20, test_s=test_s, look_s=1.0) < 2.0


def test_a_peer_that_becomes_slower_is_believed_after_two_minutes_or_ten_iterations() -> None:
    fast, slow = course(1.0, 300), course(5.0, 300)
    ends = [*fast.ends, *(fast.ends[-1] + end for end in slow.ends)]
    assert worst([Course(tuple(ends))], after_s=fast.ends[-1] + 130.0) < 2.0


def test_it_counts_down_within_an_iteration() -> None:
    one = course(25.0, 20, jitter=0.0)
    found = [seen.left_s for seen in told([one]) if seen.now > one.ends[-2] + 2]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 2.0


def test_before_the_first_iteration_it_is_unknown() -> None:
    one = course(25.0, 20)
    assert {seen.left_s for seen in told([one]) if seen.now < one.ends[0]} == {math.inf}


def test_a_rate_is_measured_from_the_end_of_an_iteration_to_that_of_another() -> None:
    gains = [Gain(25.0 * number, 100 * number) for number in range(1, 30)]
    for now_s in (725.0, 740.0, 774.0):
        assert rate_of(gains, now_s, PRESENT) == rate_of(gains, now_s, STEADY) == 4.0
    assert rate_of(gains, 1725.0, PRESENT) < 0.2  # a pause of many iterations
    assert rate_of(gains[:1], 725.0, PRESENT) == 0.0


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (Facts(), ""),
        (Facts(tests=3), ""),
        (Facts(stuck=True), ""),
        (Facts(holds=True, tests=1), "a test"),
        (Facts(holds=True), ""),
        (Facts(trained=True), "the settlement of the last chunks"),
        (Facts(trained=True, stuck=True), "etcd, which takes no writes"),
        (Facts(trained=True, settled=True), "the last checkpoint"),
        (Facts(trained=True, settled=True, tests=1), "the last checkpoint and a test"),
        (Facts(trained=True, settled=True, ended=True, tests=2), "2 tests"),
        (Facts(trained=True, settled=True, ended=True), ""),
    ],
)
def test_the_thing_that_is_waited_for_has_a_name(facts: Facts, words: str) -> None:
    assert awaited(facts) == words
