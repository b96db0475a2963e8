"""What a peer claims next."""

from __future__ import annotations

import random

from gossip_caffe.shards.choice import Chooser, Claim, List, Nothing
from gossip_caffe.shards.epochs import ChunkId, Epochs


def chooser(shard: list[int], *, records: int = 40, budget: int = 80) -> Chooser:
    epochs = Epochs(records=records, chunk_records=10, budget_samples=budget, seed=1, shuffle=False)
    return Chooser(epochs, lambda: shard, random.Random(1))


def ids(epoch: int, *chunks: int) -> tuple[ChunkId, ...]:
    return tuple(ChunkId(epoch, chunk) for chunk in chunks)


def test_the_planned_shard_goes_first_in_training_order() -> None:
    assert chooser([3, 1]).choose(0, 2, now=0.0) == Claim(ids(0, 1, 3), "planned shard")


def test_a_claim_reaches_into_the_next_epoch_when_the_shard_is_short() -> None:
    assert chooser([3, 1]).choose(0, 3, now=0.0) == Claim((*ids(0, 1, 3), *ids(1, 1)), "planned shard")


def test_when_its_shard_is_used_up_the_next_epochs_shard_follows_without_a_barrier() -> None:
    mine = chooser([1])
    mine.tried(ids(0, 1), now=0.0)
    assert mine.choose(0, 2, now=0.5) == Claim(ids(1, 1), "planned shard")


def test_a_while_after_its_shard_is_used_up_it_lists_the_epoch_and_takes_what_is_left() -> None:
    mine = chooser([1])
    mine.tried(ids(0, 1), now=0.0)
    assert mine.choose(0, 2, now=1.0) == List(0, "shard used up a while ago")
    mine.listed(0, owned=frozenset({1}), done=frozenset({0, 3}), now=1.0)
    assert mine.choose(0, 2, now=1.0) == Claim(ids(0, 2), "left by others")


def test_at_the_budgets_end_it_lists_at_once() -> None:
    mine = chooser([1], budget=40)
    mine.tried(ids(0, 1), now=0.0)
    assert mine.choose(0, 2, now=0.0) == List(0, "no planned shard is left in any epoch")


def test_an_orphaned_chunk_of_an_older_epoch_goes_before_the_next_epoch() -> None:
    mine = chooser([1])
    mine.tried(ids(0, 1), now=0.0)
    mine.listed(0, owned=frozenset({0, 1, 2, 3}), done=frozenset(), now=0.0)
    mine.members_changed()
    assert isinstance(mine.choose(0, 1, now=0.1), Claim)  # the new plan's shard is tried first …
    mine.tried(ids(0, 1), now=0.1)
    mine.members_changed()
    mine.known[0].planned = []
    assert mine.choose(0, 1, now=0.1) == List(0, "shard used up a while ago")  # … then what is left
    mine.listed(0, owned=frozenset({1}), done=frozenset({0, 3}), now=0.1)
    assert mine.choose(0, 1, now=0.1) == Claim(ids(0, 2), "left by others")


def test_when_all_is_owned_it_waits_and_lists_again_later() -> None:
    mine = chooser([1], budget=40)
    mine.tried(ids(0, 1), now=4.0)
    mine.listed(0, owned=frozenset({0, 1, 2, 3}), done=frozenset(), now=5.0)
    assert mine.choose(0, 1, now=5.5) == Nothing(6.0, "every chunk of the budget is owned or done")
    assert isinstance(mine.choose(0, 1, now=6.0), List)


def test_finished_and_folded_epochs_are_left_alone() -> None:
    mine = chooser([0, 1, 2, 3])
    mine.listed(0, owned=frozenset(), done=frozenset({0, 1, 2, 3}), now=0.0)
    choice = mine.choose(0, 1, now=0.0)
    assert isinstance(choice, Claim)
    assert choice.chunks == ids(1, 0)
    assert isinstance(mine.choose(2, 1, now=0.0), Nothing)
