"""The lines that Caffe displays of training, and the iterations at which it does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.solver.engines.display import Display, SmoothedLoss
from gossip_caffe.solver.engines.engine import NetOutput

LOSSES = st.lists(st.floats(0.0, 100.0, width=32), min_size=1, max_size=40)


@given(LOSSES, st.integers(1, 9))
def test_the_smoothed_loss_is_the_mean_of_the_last_iterations(losses: list[float], size: int) -> None:
    smoothed = SmoothedLoss(size)
    for loss in losses:
        smoothed.add(loss)
    assert smoothed.value == pytest.approx(np.mean(losses[-size:]), rel=1e-3, abs=1e-3)


def test_it_is_displayed_at_each_multiple_in_caffes_words() -> None:
    display = Display(20, 2)
    outputs = [
        NetOutput("loss", np.array([0.5], np.float32), 2.0),
        NetOutput("both", np.array([1.0, 0.1], np.float32), 0.0),
    ]
    due = [
        iteration for iteration in range(50) if display.due(iteration, 1.0) and display.of(iteration, [], 0.1)
    ]
    assert due == [0, 20, 40]
    assert display.due(63, 3.0)
    shown = display.of(63, outputs, 0.01)
    assert shown.number == 3
    assert shown.lines == (
        "Iteration 63, loss = 2",
        "    Train net output #0: loss = 0.5 (* 2 = 1 loss)",
        "    Train net output #1: both = 1",
        "    Train net output #2: both = 0.1",
        "Iteration 63, lr = 0.01",
    )
    assert not display.due(79, 1.0)


def test_where_nothing_is_to_be_displayed_nothing_is() -> None:
    display = Display(0, 1)
    assert not any(display.due(iteration, 1.0) for iteration in range(100))
