"""From claimed chunks to batches and back."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.shards.epochs import ChunkId
from gossip_caffe.shards.stream import ChunkBatch, Part, RecordStream


def fed(stream: RecordStream, *, flush: bool = False) -> list[ChunkBatch]:
    batches = []
    while (batch := stream.cut(flush=flush)) is not None:
        batches.append(batch)
    return batches


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 32))
def test_every_record_is_in_exactly_one_batch_in_order_of_the_claims(
    sizes: list[int], batch_records: int
) -> None:
    stream = RecordStream(batch_records)
    expected = []
    for index, size in enumerate(sizes):
        stream.add(ChunkId(0, index), index * 100, index * 100 + size)
        expected += list(range(index * 100, index * 100 + size))
    whole = fed(stream)
    assert all(batch.records == batch_records for batch in whole)
    batches = whole + fed(stream, flush=True)
    records = [record for batch in batches for part in batch.parts for record in range(part.start, part.stop)]
    assert records == expected
    assert [batch.sequence for batch in batches] == list(range(len(batches)))
    finishes = Counter(chunk for batch in batches for chunk in batch.finishes)
    assert finishes == Counter(ChunkId(0, index) for index in range(len(sizes)))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.integers(1, 16), st.data())
def test_a_chunk_is_durable_once_and_only_when_its_last_batch_is(
    sizes: list[int], batch_records: int, data: st.DataObject
) -> None:
    stream = RecordStream(batch_records)
    for index, size in enumerate(sizes):
        stream.add(ChunkId(0, index), index * 100, index * 100 + size)
    batches = fed(stream) + fed(stream, flush=True)
    settled: list[ChunkId] = []
    upto = 0
    while upto < len(batches):
        upto = data.draw(st.integers(upto + 1, len(batches)))
        stream.trained(upto)
        settled += stream.durable(upto)
        assert settled == [chunk for batch in batches[:upto] for chunk in batch.finishes]
    assert not stream.unsettled


def test_a_solver_that_died_is_fed_again_from_its_snapshot_on() -> None:
    stream = RecordStream(4)
    stream.add(ChunkId(0, 0), 0, 20)
    batches = fed(stream)
    assert [batch.sequence for batch in stream.trained(4)] == [0, 1, 2, 3]
    assert stream.retrain(2) == batches[2:]
    assert [batch.sequence for batch in stream.trained(4)] == [2, 3]


def test_a_leaving_peer_hands_back_what_no_batch_holds() -> None:
    stream = RecordStream(4)
    stream.add(ChunkId(0, 0), 0, 6)
    stream.add(ChunkId(0, 1), 10, 12)
    stream.add(ChunkId(0, 2), 20, 30)
    assert stream.cut() is not None
    assert stream.take_unbegun() == [ChunkId(0, 1), ChunkId(0, 2)]
    last = stream.cut(flush=True)
    assert last is not None
    assert last.records == 2
    assert last.finishes == (ChunkId(0, 0),)
    assert not stream.waiting_records


def test_what_turns_out_to_be_somebody_elses_is_not_trained_unless_it_was_begun() -> None:
    stream = RecordStream(4)
    stream.add(ChunkId(0, 0), 0, 6)
    stream.add(ChunkId(0, 1), 10, 12)
    stream.add(ChunkId(0, 2), 20, 30)
    assert stream.cut() is not None
    assert stream.withdraw({ChunkId(0, 0), ChunkId(0, 1), ChunkId(0, 7)}) == [ChunkId(0, 1)]
    assert stream.waiting_records == 2 + 10
    assert [batch.parts for batch in fed(stream)] == [
        (Part(0, 4, 6), Part(0, 20, 22)),
        (Part(0, 22, 26),),
        (Part(0, 26, 30),),
    ]
