"""A batch is suspected when the solver died at it twice, and is left out only where that is wanted, and may help."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.peer.work.suspects import MOST_IN_A_ROW, SuspectBatches
from gossip_caffe.shards.stream import ChunkBatch, Part

SIZE = 4


def batches(first: int, count: int = 6) -> list[ChunkBatch]:
    return [
        ChunkBatch(number, (Part(0, number * SIZE, (number + 1) * SIZE),), ())
        for number in range(first, first + count)
    ]


def test_the_second_death_at_a_batch_names_its_records() -> None:
    suspects = SuspectBatches(2, leave_out=False)
    assert not suspects.died(3, batches(3), "SIGSEGV").parts
    assert not suspects.died(5, batches(5), "SIGSEGV").parts, "another batch"
    judged = suspects.died(5, batches(5), "SIGSEGV")
    assert judged.parts == (Part(0, 20, 24), Part(0, 24, 28)), "all of the iteration"
    assert not judged.left_out
    assert suspects.without(judged.parts) == (judged.parts, ())


def test_records_that_are_left_out_stay_out_of_every_epoch() -> None:
    suspects = SuspectBatches(1, leave_out=True)
    suspects.died(5, batches(5), "SIGSEGV")
    assert suspects.died(5, batches(5), "SIGSEGV").left_out
    parts, out = suspects.without([Part(3, 18, 30)])
    assert parts == (Part(3, 18, 20), Part(3, 24, 30))
    assert [(epoch, record) for epoch, record, _ in out] == [(3, 20), (3, 21), (3, 22), (3, 23)]
    assert {reason for *_, reason in out} == {"the solver died twice at its batch (SIGSEGV)"}


def test_a_solver_that_dies_at_every_batch_does_not_die_of_them() -> None:
    suspects = SuspectBatches(1, leave_out=True)
    for number in range(MOST_IN_A_ROW):
        suspects.died(number, batches(number), "SIGSEGV")
        assert suspects.died(number, batches(number), "SIGSEGV").left_out
    suspects.died(MOST_IN_A_ROW, batches(MOST_IN_A_ROW), "SIGSEGV")
    judged = suspects.died(MOST_IN_A_ROW, batches(MOST_IN_A_ROW), "SIGSEGV")
    assert judged.parts
    assert not judged.left_out


def test_batches_far_from_each_other_may_be_left_out_for_ever() -> None:
    suspects = SuspectBatches(1, leave_out=True)
    for number in range(0, 60, 2):
        suspects.died(number, batches(number), "SIGSEGV")
        assert suspects.died(number, batches(number), "SIGSEGV").left_out


@given(st.sets(st.integers(0, 5)), st.lists(st.tuples(st.integers(0, 20), st.integers(1, 6)), max_size=4))
def test_records_that_are_kept_and_records_that_are_left_out_are_all_records(
    bad: set[int], ranges: list[tuple[int, int]]
) -> None:
    suspects = SuspectBatches(1, leave_out=True)
    for number in sorted(bad):
        suspects.died(2 * number, batches(2 * number), "x")
        suspects.died(2 * number, batches(2 * number), "x")
    parts = [Part(1, start, start + length) for start, length in ranges]
    left, out = suspects.without(parts)
    records = [record for part in left for record in range(part.start, part.stop)]
    assert sorted([*records, *(record for _, record, _ in out)]) == sorted(
        record for part in parts for record in range(part.start, part.stop)
    )
    assert all(part.start < part.stop for part in left)
    assert not {record // SIZE for record in records} & {2 * number for number in bad}
