"""How fast the job is, and what follows for a peer."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.job.spec import JobSettings
from gossip_caffe.peer.exchanging import LONGEST_LOOK_S, SHORTEST_LOOK_S, until_due_s
from gossip_caffe.peer.pace import (
    checkpoint_interval,
    claims_wanted,
    rate_factor,
    samples_of_others,
    share_of_what_was_left,
)
from gossip_caffe.peer.progress import look_after_s


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


@given(owned=st.integers(0, 100), living=st.integers(1, 2000))
def test_all_who_live_take_together_what_one_of_them_may_have_left(owned: int, living: int) -> None:
    share = share_of_what_was_left(owned, living)
    assert owned <= share * living < 2 * owned + living


def test_a_lone_peer_learns_at_the_schedules_own_rate_from_the_start() -> None:
    assert rate_factor(JobSettings(), 1, 0, 1000) == 1.0


def test_the_rate_grows_to_the_root_of_the_living_peers_over_the_warm_up() -> None:
    settings = JobSettings(warmup=0.1)
    assert rate_factor(settings, 4, 0, 1000) == 1.0
    assert rate_factor(settings, 4, 50, 1000) == 1.5
    assert rate_factor(settings, 4, 100, 1000) == 2.0
    assert rate_factor(settings, 4, 900, 1000) == 2.0
    assert math.isclose(rate_factor(settings, 5, 900, 1000), math.sqrt(5))


def test_others_have_what_is_done_and_not_ours() -> None:
    assert samples_of_others(100, 30) == 70
    assert samples_of_others(10, 30) == 0  # our marks are newer than the count


def test_checkpoints_come_twenty_times_a_job_unless_it_says_otherwise() -> None:
    assert checkpoint_interval(JobSettings(), 1000) == 50
    assert checkpoint_interval(JobSettings(checkpoint_every_samples=7), 1000) == 7


def test_all_peers_together_look_at_the_progress_no_oftener_however_many_they_are() -> None:
    assert look_after_s(1) == 0.5
    assert 1000 / look_after_s(1000) <= 100


@given(st.integers(-5, 10**6), st.floats(0, 100))
def test_the_next_look_for_an_exchange_is_soon_but_not_at_once(left: int, step_s: float) -> None:
    assert SHORTEST_LOOK_S <= until_due_s(left, step_s) <= LONGEST_LOOK_S
