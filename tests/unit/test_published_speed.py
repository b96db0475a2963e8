"""The published speed of a peer: how it is measured, and that only a large and lasting change is published."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.peer.work.published_speed import CHANGE, LASTS_S, NewSpeed, SpeedMeter


class Published:
    """A peer that trains at some rate, measured every second, and the speeds that it has published."""

    def __init__(self) -> None:
        self.meter = SpeedMeter()
        self.now = 100.0
        self.trained = 0.0
        self.published: list[NewSpeed] = []

    @property
    def weight(self) -> float:
        return self.published[-1].weight if self.published else 0.0

    def train(self, seconds: int, rate: float, batch: int = 1, had_work: bool = True) -> None:
        for _ in range(seconds):
            self.now += 1.0
            self.trained += rate
            samples = int(self.trained) // batch * batch
            if (news := self.meter.note(self.now, samples, had_work, self.weight)) is not None:
                self.published.append(news)


@given(st.floats(20.0, 1e6))
def test_a_steady_speed_is_published_once_and_within_five_percent(rate: float) -> None:
    told = Published()
    told.train(300, rate, batch=max(1, int(rate) // 10))
    assert len(told.published) == 1
    assert told.weight == pytest.approx(rate, rel=0.06)


def test_iterations_that_take_seconds_are_measured_too() -> None:
    told = Published()
    told.train(60, rate=64 / 3.3, batch=64)
    assert told.weight == pytest.approx(64 / 3.3, rel=0.2)


def test_the_speed_of_iterations_that_take_longer_than_the_looks_is_published_at_most_twice() -> None:
    told, rng = Published(), random.Random(1)
    for _ in range(200):
        told.now += 8.0
        told.trained += 6.4 * rng.uniform(0.9, 1.1)  # of iterations of 8 samples
        samples = int(told.trained) // 8 * 8
        if (news := told.meter.note(told.now, samples, True, told.weight)) is not None:
            told.published.append(news)
    assert len(told.published) <= 2
    assert told.weight == pytest.approx(0.8, rel=0.3)


@given(st.integers(0, 10**6))
def test_noise_publishes_no_new_speed(seed: int) -> None:
    rng, told = random.Random(seed), Published()
    told.train(20, 1000.0)
    for _ in range(300):
        told.train(1, rng.gauss(1000.0, 120.0))
    assert len(told.published) == 1


def test_a_change_that_lasts_is_published_and_one_that_passes_is_not() -> None:
    told = Published()
    told.train(60, 900.0)
    told.train(int(LASTS_S) - 5, 300.0)
    told.train(60, 900.0)
    assert len(told.published) == 1
    told.train(60, 300.0)
    assert len(told.published) in {2, 3}
    assert told.weight == pytest.approx(300.0, rel=CHANGE - 1)
    assert "times what it was" in told.published[-1].reason


def test_waiting_for_records_does_not_lower_the_speed() -> None:
    told = Published()
    told.train(60, 900.0)
    told.train(100, 10.0, had_work=False)
    assert len(told.published) == 1


def test_a_solver_that_went_back_to_its_snapshot_is_not_measured_across_that() -> None:
    told = Published()
    told.train(60, 900.0)
    told.trained -= 5000
    told.train(60, 900.0)
    assert len(told.published) == 1
    assert told.meter.samples_per_s == pytest.approx(900.0, rel=0.01)
