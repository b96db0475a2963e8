"""A peer's weight: what it is measured to be, and that only what is large and lasts is told to others."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.peer.weighing import CHANGE, LASTS_S, Weighed, Weighing


class Told:
    """A peer that trains at some rate, looked at every second; what it told the others."""

    def __init__(self) -> None:
        self.weighing = Weighing()
        self.now = 100.0
        self.trained = 0.0
        self.published: list[Weighed] = []

    @property
    def weight(self) -> float:
        return self.published[-1].weight if self.published else 0.0

    def train(self, seconds: int, rate: float, batch: int = 1, had_work: bool = True) -> None:
        for _ in range(seconds):
            self.now += 1.0
            self.trained += rate
            samples = int(self.trained) // batch * batch
            if (weighed := self.weighing.note(self.now, samples, had_work, self.weight)) is not None:
                self.published.append(weighed)


@given(st.floats(20.0, 1e6))
def test_a_steady_pace_is_told_once_and_within_five_percent(rate: float) -> None:
    told = Told()
    told.train(300, rate, batch=max(1, int(rate) // 10))
    assert len(told.published) == 1
    assert told.weight == pytest.approx(rate, rel=0.06)


def test_iterations_that_take_seconds_are_measured_too() -> None:
    told = Told()
    told.train(60, rate=64 / 3.3, batch=64)
    assert told.weight == pytest.approx(64 / 3.3, rel=0.2)


def test_iterations_that_take_longer_than_the_looks_are_not_told_again_and_again() -> None:
    told, rng = Told(), random.Random(1)
    for _ in range(200):
        told.now += 8.0
        told.trained += 6.4 * rng.uniform(0.9, 1.1)  # of iterations of 8 samples
        samples = int(told.trained) // 8 * 8
        if (weighed := told.weighing.note(told.now, samples, True, told.weight)) is not None:
            told.published.append(weighed)
    assert len(told.published) <= 2
    assert told.weight == pytest.approx(0.8, rel=0.3)


@given(st.integers(0, 10**6))
def test_noise_moves_nothing(seed: int) -> None:
    rng, told = random.Random(seed), Told()
    told.train(20, 1000.0)
    for _ in range(300):
        told.train(1, rng.gauss(1000.0, 120.0))
    assert len(told.published) == 1


def test_a_change_that_lasts_is_told_and_one_that_passes_is_not() -> None:
    told = Told()
    told.train(60, 900.0)
    told.train(int(LASTS_S) - 5, 300.0)
    told.train(60, 900.0)
    assert len(told.published) == 1
    told.train(60, 300.0)
    assert len(told.published) in {2, 3}
    assert told.weight == pytest.approx(300.0, rel=CHANGE - 1)
    assert "times what it was" in told.published[-1].reason


def test_waiting_for_something_to_train_does_not_count_as_slowness() -> None:
    told = Told()
    told.train(60, 900.0)
    told.train(100, 10.0, had_work=False)
    assert len(told.published) == 1


def test_a_solver_that_went_back_to_its_snapshot_is_not_measured_across_that() -> None:
    told = Told()
    told.train(60, 900.0)
    told.trained -= 5000
    told.train(60, 900.0)
    assert len(told.published) == 1
    assert told.weighing.samples_per_s == pytest.approx(900.0, rel=0.01)
