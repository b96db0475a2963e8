"""The progress of the whole job as one peer knows it, its learning rate, and its checkpoint interval."""

from __future__ import annotations

from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.job.spec.learning_rate import factor
from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.peer.work.progress import (
    Progress,
    checkpoint_interval,
    look_after_s,
    samples_of_others,
    steered_rate,
)
from gossip_caffe.shards.epochs import Epochs
from gossip_caffe.shards.ledger import Ledger
from tests.bare_job import bare_job


class LedgerThatSays:
    """A ledger of a given count of done samples."""

    folded = 0

    def __init__(self, samples: int) -> None:
        self._samples = samples

    async def done_samples(self) -> int:
        return self._samples


async def look(progress: Progress, samples: int) -> None:
    await progress.look(cast(Ledger, LedgerThatSays(samples)))


async def test_a_job_that_is_warm_stays_warm_when_the_store_forgets_what_was_done() -> None:
    spec = bare_job(settings=JobSettings(warmup=0.1))
    warm = round(0.1 * spec.budget_samples)
    progress = Progress(spec, cast(Epochs, None))
    await look(progress, warm - 1)
    assert not progress.is_warm
    await look(progress, warm)
    assert progress.is_warm
    await look(progress, warm - 1)
    assert (progress.samples, progress.is_warm) == (warm - 1, True)


def rates(settings: JobSettings, *looks: tuple[int, int]) -> list[float]:
    """The factor at each look of one peer: how many live, after how many of 1,000 samples."""
    ramp, found = None, []
    for living, samples in looks:
        ramp, factor = steered_rate(ramp, settings, living, samples, 1000)
        found.append(round(factor, 9))
    return found


def test_a_lone_peer_learns_at_the_schedules_own_rate_from_the_start() -> None:
    assert rates(JobSettings(), (1, 0), (1, 500)) == [1.0, 1.0]


def test_the_rate_grows_to_the_root_of_the_living_peers_over_the_warm_up() -> None:
    settings = JobSettings(warmup=0.1)
    assert rates(settings, (4, 0), (4, 50), (4, 100), (4, 900)) == [1.0, 1.5, 2.0, 2.0]
    assert rates(JobSettings(warmup=0.0), (4, 0)) == [2.0]


def test_after_a_jump_in_membership_the_rate_grows_again_and_falls_at_once() -> None:
    settings = JobSettings(warmup=0.1, lr_scaling="linear")
    assert rates(settings, (2, 0), (2, 100), (6, 200), (6, 250), (6, 300)) == [1.0, 2.0, 2.0, 4.0, 6.0]
    assert rates(settings, (6, 0), (6, 100), (3, 110), (4, 150), (4, 200)) == [1.0, 6.0, 3.0, 3.0, 3.5]


def test_a_joiner_begins_with_the_schedules_own_rate() -> None:
    assert rates(JobSettings(warmup=0.1), (4, 500), (4, 550), (4, 600)) == [1.0, 1.5, 2.0]


@given(
    looks=st.lists(st.tuples(st.integers(1, 50), st.integers(0, 100)), min_size=1),
    scaling=st.sampled_from(["none", "sqrt", "linear"]),
)
def test_the_rate_is_never_more_than_the_living_warrant(looks: list[tuple[int, int]], scaling: str) -> None:
    settings, samples, ramp = JobSettings(lr_scaling=scaling), 0, None
    for living, more in looks:
        samples += more
        ramp, found = steered_rate(ramp, settings, living, samples, 1000)
        assert 1.0 <= found <= factor(scaling, living) + 1e-9


def test_samples_of_others_are_the_done_samples_without_this_peers() -> None:
    assert samples_of_others(100, 30) == 70
    assert samples_of_others(10, 30) == 0  # our marks are newer than the count


def test_checkpoints_come_twenty_times_a_job_unless_it_says_otherwise() -> None:
    assert checkpoint_interval(JobSettings(), 1000) == 50
    assert checkpoint_interval(JobSettings(checkpoint_every_samples=7), 1000) == 7


def test_all_peers_together_look_at_the_progress_no_oftener_however_many_they_are() -> None:
    assert look_after_s(1) == 0.5
    assert 1000 / look_after_s(1000) <= 100
