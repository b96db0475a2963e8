"""The measured speed of a peer, and the number of chunks that it claims ahead at that speed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.peer.work.throughput import Throughput, claims_wanted
from tests.watch import Watch


def rates(step_s: float, samples: int, seconds: int) -> list[float]:
    """What is said each second of a peer whose iterations take so long."""
    clock = Watch()
    throughput = Throughput(clock)
    found = []
    for second in range(1, seconds + 1):
        clock.now = float(second)
        throughput.note(int(second / step_s) * samples, 0.0)
        found.append(throughput.samples_per_s)
    return found


def test_the_rate_of_iterations_that_take_long_is_unknown_first_and_steady_then() -> None:
    found = rates(40.0, 256, 200)
    assert set(found[:39]) == {0.0}
    assert all(rate == pytest.approx(6.4, rel=0.05) for rate in found[40:])


def test_the_rate_of_fast_iterations_is_steady() -> None:
    assert all(rate == pytest.approx(3200, rel=0.01) for rate in rates(0.02, 64, 60))


def test_the_rate_of_a_peer_that_stands_still_falls_and_comes_back() -> None:
    clock = Watch()
    throughput = Throughput(clock)
    for second in range(1, 11):
        clock.now = float(second)
        throughput.note(100 * second, 0.0)
    clock.now = 110.0
    throughput.note(1000, 0.0)
    assert throughput.samples_per_s == pytest.approx(1.0, rel=0.05)
    for second in range(111, 141):
        clock.now = float(second)
        throughput.note(1000 + 100 * (second - 110), 0.0)
    assert throughput.samples_per_s == pytest.approx(100, rel=0.05)


def wanted(queued: int, records_per_s: float = 0.0) -> int:
    return claims_wanted(
        queued_records=queued,
        batch_records=10,
        chunk_records=40,
        prefetch_batches=8,
        records_per_s=records_per_s,
    )


def test_a_peer_claims_in_lots_when_half_of_its_queue_is_used_up() -> None:
    assert wanted(0) == 2
    assert wanted(41) == 0
    assert wanted(40) == 1
    assert wanted(0, records_per_s=4000) == 100
    assert wanted(2001, records_per_s=4000) == 0


@given(st.integers(0, 10**6), st.floats(0, 1e5))
def test_a_hungry_peer_always_claims_something(queued: int, records_per_s: float) -> None:
    ahead = max(80, round(records_per_s))
    assert (wanted(queued, records_per_s) > 0) == (2 * queued <= ahead)
