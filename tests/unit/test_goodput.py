"""The goodput of a run: the shares add up to 1, and each loss is found where it was made."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.observe.checker.goodput import Lived, goodput, shares
from gossip_caffe.observe.history.run import Run

STARTED = {
    "pid": 1, "schema": 2, "job": "tiny", "budget_samples": 40, "records": 40, "chunk_records": 10,
    "half_limit": 0.25, "warmup": 0.05,
}  # fmt: skip


def log(peer: str, *events: tuple[float, str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"t": 1000.0 + at, "m": at, "peer": peer, "event": event, **fields} for at, event, fields in events
    ]


def trained(at: float, sequence: int, *records: int) -> tuple[float, str, dict[str, Any]]:
    return at, "trained", {"sequence": sequence, "parts": [[0, *records]]}


def report(at: float, stepping_s: float, stalled_share: float = 0.0) -> tuple[float, str, dict[str, Any]]:
    said = {"iteration": 1, "stalled_share": stalled_share, "owns": True, "stepping_s": stepping_s}
    return at, "progress", said


def done(at: float, *chunks: int) -> tuple[float, str, dict[str, Any]]:
    return at, "done", {"epoch": 0, "chunks": list(chunks), "revisions": [1] * len(chunks), "via": "c0"}


LEFT = {"reason": "the job is finished", "error": ""}


def test_each_second_of_a_peer_is_told_by_what_became_of_it() -> None:
    """10 s at 4 records a second: 2 s to start, 2 s without batches, 1 s of something else, and 20 records in 5 s."""
    logs = {
        "a": log(
            "a",
            (0, "started", STARTED),
            trained(4.5, 0, 0, 10),  # 2 s, and 2.5 s of iterations
            report(5.0, 2.5),
            report(7.0, 2.5, 1.0),
            trained(10.0, 1, 10, 20),
            report(10.0, 5.0),
            done(12.0, 0, 1),
            (12.0, "left", LEFT),
        )
    }
    found = goodput(Run.of_logs(logs))
    assert found is not None
    assert astuple(found) == pytest.approx((0.5, 0.0, 0.2, 0.2, 0.1))


def test_records_that_are_trained_again_are_no_goodput() -> None:
    logs = {
        "a": log(
            "a",
            (0, "started", STARTED),
            trained(1.0, 0, 0, 10),
            trained(2.0, 1, 0, 10),
            report(2.0, 2.0),
            done(2.0, 0),
            (2.0, "left", LEFT),
        )
    }
    found = goodput(Run.of_logs(logs))
    assert found is not None
    assert astuple(found) == pytest.approx((0.5, 0.5, 0.0, 0.0, 0.0))


def test_a_killed_peer_could_train_until_its_kill_and_one_that_waits_for_the_end_of_the_job_could_not() -> (
    None
):
    logs = {
        "a": log(
            "a", (0, "started", STARTED), trained(1.0, 0, 0, 10), report(1.0, 1.0), done(1.5, 0)
        ),  # killed at 2.0
        "b": log(
            "b",
            (0, "started", STARTED),
            trained(1.0, 0, 10, 20),
            trained(4.0, 1, 20, 30),
            report(4.0, 4.0),
            done(9.0, 1, 2),
            (60.0, "left", LEFT),
        ),
    }
    kill = {"t": 1002.0, "event": "fault", "fault": "kill", "peer": "a"}
    found = goodput(Run.of_logs(logs, seen=[kill]))
    assert found is not None
    could = 2.0 * 10 + 4.0 * 5
    assert found.share == pytest.approx(30 / could)
    assert found.starting == pytest.approx(0.0)


def test_a_peer_that_ended_before_its_first_batch_lost_all_its_time_at_the_pace_of_the_others() -> None:
    lives = [Lived(10.0, 0.0, 0.0, 100, 0.1), Lived(5.0, 5.0, 0.0, 0, None)]
    found = shares(lives, twice=0)
    assert found is not None
    assert astuple(found) == pytest.approx((100 / 150, 0.0, 50 / 150, 0.0, 0.0))


def test_a_run_of_which_no_peer_told_its_pace_has_no_goodput() -> None:
    logs = {"a": log("a", (0, "started", STARTED), trained(1.0, 0, 0, 10), (2.0, "left", LEFT))}
    assert goodput(Run.of_logs(logs)) is None


@given(
    st.lists(
        st.tuples(
            st.floats(0.1, 1e4),
            st.floats(0, 1),
            st.floats(0, 1),
            st.integers(0, 10**6),
            st.one_of(st.none(), st.floats(1e-6, 10)),
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(0, 1000),
)
def test_the_shares_of_a_goodput_add_up_to_one(
    lives: list[tuple[float, float, float, int, float | None]], twice: int
) -> None:
    found = shares(
        [
            Lived(lived_s, lived_s * start, lived_s * (1 - start) * stall, samples, pace_s)
            for lived_s, start, stall, samples, pace_s in lives
        ],
        twice=twice,
    )
    if found is None:
        assert all(pace_s is None for *_, pace_s in lives)
        return
    assert sum(astuple(found)) == pytest.approx(1.0, abs=1e-6)
