"""Which checkpoints are kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.checkpoint.announce import Announcement, checkpoint_id
from gossip_caffe.checkpoint.retention import Retention


def made_at(samples: int, score: float | None = None) -> Announcement:
    return Announcement(checkpoint_id(samples, "p0"), "digest", samples, 0.0, {}, score, samples)


def samples_of(kept: dict[str, str]) -> list[int]:
    return sorted(int(checkpoint.partition("-")[0]) for checkpoint in kept)


def test_the_newest_stay_and_each_says_why() -> None:
    kept = Retention(2).kept([made_at(samples) for samples in (10, 30, 20)])
    assert kept == {
        made_at(30).checkpoint: "one of the newest 2",
        made_at(20).checkpoint: "one of the newest 2",
    }


def test_the_first_after_each_so_many_samples_stays() -> None:
    kept = Retention(1, every_samples=100).kept(
        [made_at(samples) for samples in (10, 60, 110, 160, 310, 320)]
    )
    assert samples_of(kept) == [10, 110, 310, 320]
    assert kept[made_at(110).checkpoint] == "the first after 100 samples"


def test_the_best_by_test_stay_and_untested_ones_are_not_among_them() -> None:
    scores = {10: 0.5, 20: 0.9, 30: None, 40: 0.7, 50: None}
    kept = Retention(1, best=2).kept([made_at(samples, score) for samples, score in scores.items()])
    assert samples_of(kept) == [20, 40, 50]
    assert kept[made_at(20).checkpoint] == "one of the best 2 by test (0.9)"


@given(
    st.sets(st.integers(0, 10_000), max_size=40),
    st.integers(1, 10),
    st.integers(0, 1_000),
    st.integers(0, 5),
)
def test_what_was_kept_before_the_next_one_came_is_all_that_later_decisions_need(
    progress: set[int], last: int, every: int, best: int
) -> None:
    retention = Retention(last, every, best)
    entries = [made_at(samples, (samples * 37 % 101) / 101) for samples in sorted(progress)]
    there: list[Announcement] = []
    for entry in entries:  # what was removed on the way would not have been kept in the end either
        there.append(entry)
        kept = retention.kept(there)
        there = [one for one in there if one.checkpoint in kept]
    assert {one.checkpoint for one in there} == set(retention.kept(entries))
    assert {entry.checkpoint for entry in entries[-last:]} <= {one.checkpoint for one in there}
