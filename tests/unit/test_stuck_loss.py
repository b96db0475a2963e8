"""A loss that stays where a diverged net's is, is said once, and no other loss is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.solver.engines.engine import NetOutput
from gossip_caffe.solver.engines.stuck_loss import (
    MOST_RECORDS,
    SATURATED,
    WINDOW_ITERATIONS,
    WINDOW_LOOKS,
    StuckLoss,
    is_saturated,
)

LINE = "loss stays at 87.34: it has diverged; lower base_lr or scale the data"


def said(losses: list[float], outputs: list[NetOutput] | None = None, records: int = 16) -> list[str]:
    stuck = StuckLoss()
    return [line for loss in losses if (line := stuck.note(loss, records, lambda: outputs or []))]


def test_it_is_said_once_when_it_has_stayed() -> None:
    assert said([2.3, 2.2] + [87.3365] * (WINDOW_ITERATIONS - 1)) == []
    assert said([2.3, 2.2] + [87.33654] * (10 * WINDOW_ITERATIONS)) == [LINE]
    assert said(([87.3365] * (WINDOW_ITERATIONS - 1) + [2.0]) * 9) == []


def test_labels_that_are_right_by_chance_do_not_hide_it() -> None:
    seen = [76.4195, 70.9609, 81.878, 65.5024, 60.0439] * 4
    assert said([2.3, 78.6814, *seen[1:]]) == []
    assert said([2.3, 78.6814, *seen]) == [
        "loss stays at 87.34 times the share of wrong records (60.04 now): it has diverged; "
        "lower base_lr or scale the data"
    ]


def test_one_of_several_losses_may_be_stuck() -> None:
    outputs = [
        NetOutput("loss1", np.array([SATURATED], np.float32), 0.3),
        NetOutput("loss2", np.array([2.0], np.float32), 1.0),
    ]
    losses = [0.3 * SATURATED + 2.0] * (WINDOW_ITERATIONS * WINDOW_LOOKS)
    assert said(losses, outputs) == [LINE]
    assert said(losses[1:], outputs) == []
    shown = [NetOutput("shown", np.array([SATURATED], np.float32), 0.0)]
    assert said([2.0] * 400, shown) == []


@pytest.mark.parametrize(
    "losses",
    [[0.0] * 100, [0.693] * 100, [87.0, 87.5] * 50, [0.7 * SATURATED] * 100, [100.0] * 100, [-1.0] * 99],
)
def test_any_other_loss_is_left_alone(losses: list[float]) -> None:
    assert said(losses) == []


@given(st.integers(1, MOST_RECORDS), st.data())
def test_the_mean_of_records_that_are_right_or_hopeless_is_saturated(
    records: int, data: st.DataObject
) -> None:
    wrong = data.draw(st.integers(1, records))
    losses = np.zeros(records, np.float32)
    losses[:wrong] = SATURATED
    assert is_saturated(float(losses.sum() / np.float32(records)), records)
    assert not is_saturated(0.0, records)


def test_an_ordinary_course_of_losses_is_not_taken_for_one() -> None:
    rng = np.random.default_rng(0)
    for records in (1, 16, 256, 2048):
        losses = list(np.abs(rng.normal(30, 20, 2000)))
        assert said(losses, records=records) == []
