"""The budget laid out over chunks and epochs."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.shards.epochs import ChunkId, Epochs

geometries = st.builds(
    Epochs,
    records=st.integers(1, 300),
    chunk_records=st.integers(1, 70),
    budget_samples=st.integers(1, 1500),
    seed=st.integers(0, 1000),
    shuffle=st.booleans(),
)


@given(geometries)
def test_the_extents_of_all_epochs_add_up_to_the_budget(epochs: Epochs) -> None:
    total = 0
    for epoch in range(epochs.count):
        for chunk in epochs.order(epoch):
            start, stop = epochs.extent(ChunkId(epoch, chunk))
            assert 0 <= start < stop <= epochs.records
            total += stop - start
    assert total == epochs.budget_samples


@given(geometries)
def test_a_whole_epoch_holds_every_record_once(epochs: Epochs) -> None:
    for epoch in range(epochs.count - 1):
        extents = sorted(epochs.extent(ChunkId(epoch, chunk)) for chunk in epochs.order(epoch))
        assert extents[0][0] == 0
        assert extents[-1][1] == epochs.records
        assert all(before[1] == after[0] for before, after in itertools.pairwise(extents))


def test_the_order_changes_from_epoch_to_epoch_and_with_the_seed_only() -> None:
    epochs = Epochs(records=1000, chunk_records=10, budget_samples=3000, seed=3)
    again = Epochs(records=1000, chunk_records=10, budget_samples=3000, seed=3)
    other = Epochs(records=1000, chunk_records=10, budget_samples=3000, seed=4)
    assert epochs.order(0) == again.order(0)
    assert epochs.order(0) != epochs.order(1)
    assert epochs.order(0) != other.order(0)


def test_without_shuffling_chunks_come_as_they_are_stored() -> None:
    epochs = Epochs(records=100, chunk_records=10, budget_samples=150, seed=3, shuffle=False)
    assert epochs.order(0) == tuple(range(10))
    assert epochs.order(1) == tuple(range(5))


def test_samples_are_those_of_whole_epochs_and_of_single_chunks_of_their_true_size() -> None:
    epochs = Epochs(records=25, chunk_records=10, budget_samples=60, seed=1)
    assert epochs.samples_of(1, (ChunkId(1, 0), ChunkId(1, 2))) == 25 + 10 + 5
    everything = (ChunkId(epoch, chunk) for epoch in range(3) for chunk in epochs.order(epoch))
    assert epochs.samples_of(0, everything) == 60
    assert epochs.samples_of(3, ()) == 60
