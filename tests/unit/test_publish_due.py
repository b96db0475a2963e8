"""When a solver publishes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.solver.publishing import SHARE_OF_TIME, publication

SECONDS = st.floats(0, 1000)


@pytest.mark.parametrize(("requested", "corrected"), [(True, False), (False, True), (True, True)])
def test_a_request_and_a_correction_are_published_at_once_whatever_it_costs(
    requested: bool, corrected: bool
) -> None:
    decision = publication(since_last_s=0.0, copy_s=10.0, requested=requested, corrected=corrected)
    assert decision.due
    assert decision.reason == ("a correction was added" if corrected else "the agent asks for it")


@given(SECONDS, SECONDS)
def test_otherwise_publishing_takes_no_more_than_its_share_of_the_time(
    since_last_s: float, copy_s: float
) -> None:
    decision = publication(since_last_s=since_last_s, copy_s=copy_s, requested=False, corrected=False)
    assert decision.due == (copy_s <= since_last_s * SHARE_OF_TIME)
    assert decision.reason


def test_the_first_snapshot_is_due_at_once() -> None:
    decision = publication(since_last_s=float("inf"), copy_s=0.0, requested=False, corrected=False)
    assert decision.due
