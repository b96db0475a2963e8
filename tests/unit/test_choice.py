"""What a peer claims next."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from gossip_caffe.shards.choice import LOOKS_AHEAD_CHUNKS, Chooser, Claim, NeedListing, Wait
from gossip_caffe.shards.epochs import ChunkId, Epochs
from gossip_caffe.shards.ledger import EpochState


def chooser(shard: list[int], *, records: int = 40, budget: int = 80, living: int = 1) -> Chooser:
    """One that has listed the empty ledger long ago."""
    epochs = Epochs(records=records, chunk_records=10, budget_samples=budget, seed=1, shuffle=False)
    made = Chooser(epochs, lambda: shard, random.Random(1), lambda: living)
    assert isinstance(made.choose(0, 1, now=-1e9), NeedListing)
    made.listed({}, now=-1e9)
    return made


def ids(epoch: int, *chunks: int) -> tuple[ChunkId, ...]:
    return tuple(ChunkId(epoch, chunk) for chunk in chunks)


def test_the_planned_shard_goes_first_in_training_order() -> None:
    assert chooser([3, 1]).choose(0, 2, now=0.0) == Claim(ids(0, 1, 3), "planned, or left by others")


def test_a_claim_reaches_into_the_next_epoch_when_the_shard_is_short() -> None:
    assert chooser([3, 1]).choose(0, 3, now=0.0) == Claim(
        (*ids(0, 1, 3), *ids(1, 1)), "planned, or left by others"
    )


def state(owned: set[int], done: set[int]) -> EpochState:
    return EpochState(frozenset(owned), frozenset(done))


def test_when_its_shard_is_used_up_it_lists_at_once_and_then_at_most_once_a_second() -> None:
    mine = chooser([1])
    mine.tried(ids(0, 1))
    assert isinstance(mine.choose(0, 2, now=10.0), NeedListing)
    mine.listed({0: state({0, 1, 2, 3}, set())}, now=10.0)
    assert mine.choose(0, 2, now=10.9) == Claim(ids(1, 1), "planned, or left by others")  # no barrier
    assert isinstance(mine.choose(0, 2, now=11.0), NeedListing)


def test_what_others_left_of_an_older_epoch_goes_before_the_next_epoch() -> None:
    mine = chooser([1])
    mine.tried(ids(0, 1))
    mine.choose(0, 1, now=10.0)
    mine.listed({0: state({1}, {0, 3})}, now=10.0)
    assert mine.choose(0, 2, now=10.0) == Claim((*ids(0, 2), *ids(1, 1)), "planned, or left by others")


def test_an_orphaned_chunk_is_found_soon_after_its_owner_is_gone() -> None:
    mine = chooser([1])
    mine.choose(0, 1, now=10.0)
    mine.tried(ids(0, 1))
    mine.listed({0: state({0, 1, 2, 3}, set())}, now=10.0)
    mine.members_changed(now=10.1)
    mine.tried(ids(0, 1))
    assert isinstance(mine.choose(0, 1, now=10.1), NeedListing)
    mine.listed({0: state({1}, {0, 3})}, now=10.1)
    assert mine.choose(0, 1, now=10.1) == Claim(ids(0, 2), "planned, or left by others")


def test_what_a_dead_peer_had_begun_lies_behind_and_what_it_would_have_come_to_does_not() -> None:
    shard = [0, 3, 6, 9]
    epochs = Epochs(records=120, chunk_records=10, budget_samples=240, seed=1, shuffle=False)
    mine = Chooser(epochs, lambda: shard, random.Random(1), lambda: 2)
    mine.choose(0, 1, now=10.0)
    mine.listed({}, now=10.0)
    mine.tried(ids(0, 0, 3, 6))
    assert mine.behind() == 0
    shard[:] = [0, 1, 3, 4, 6, 7, 9]  # of the others' chunks 1, 4 and 7 are planned here now; 1 was done
    mine.members_changed(now=11.0)
    mine.choose(0, 1, now=11.0)
    mine.listed({0: state({3, 6}, {0, 1})}, now=11.0)
    assert mine.behind() == 1
    assert mine.choose(0, 3, now=11.0) == Claim(ids(0, 4, 7, 9), "planned, or left by others")


def test_when_all_is_owned_it_waits_and_lists_again_a_little_later() -> None:
    mine = chooser([1], budget=40)
    mine.choose(0, 1, now=10.0)
    mine.tried(ids(0, 1))
    mine.listed({0: state({0, 1, 2, 3}, set())}, now=10.0)
    assert mine.choose(0, 1, now=10.1) == Wait(10.25, "every chunk within reach is owned or done")
    assert isinstance(mine.choose(0, 1, now=10.25), NeedListing)


def test_a_joiner_asks_what_is_done_before_it_claims_anything() -> None:
    epochs = Epochs(records=40, chunk_records=10, budget_samples=80, seed=1, shuffle=False)
    mine = Chooser(epochs, lambda: [0, 1, 3], random.Random(1))
    assert isinstance(mine.choose(0, 2, now=5.0), NeedListing)
    mine.listed({0: state({1}, {0})}, now=5.0)
    assert mine.choose(0, 2, now=5.0) == Claim((*ids(0, 3), *ids(1, 0)), "planned, or left by others")


def test_when_members_change_the_shard_is_planned_and_listed_anew_once() -> None:
    shard = [0]
    mine = chooser(shard)
    mine.choose(0, 1, now=10.0)
    shard[:] = [2, 3]
    mine.members_changed(now=10.0)
    mine.members_changed(now=10.0)
    assert isinstance(mine.choose(0, 9, now=10.0), NeedListing)
    mine.listed({0: state({2}, set())}, now=10.0)
    assert mine.choose(0, 9, now=10.0) == Claim((*ids(0, 3), *ids(1, 2, 3)), "planned, or left by others")


def test_among_many_a_change_of_members_is_planned_without_a_listing_and_nothing_is_tried_twice() -> None:
    shard = [0, 1]
    mine = chooser(shard, living=1000)
    mine.tried(ids(0, 0))
    shard[:] = [0, 1, 3]
    mine.members_changed(now=10.0)
    wanted = (*ids(0, 1, 3), *ids(1, 0, 1))
    assert mine.choose(0, 4, now=30.0) == Claim(wanted, "planned, or left by others")


def asked(living: int, seconds: float, *, changes: bool) -> int:
    """How often all of ``living`` peers list in so many seconds while every chunk is owned by somebody."""
    listings = 0
    for seed in range(20):
        mine = chooser([1], living=living)
        mine.rng.seed(seed)
        mine.tried((*ids(0, 1), *ids(1, 1)))
        mine.listed({epoch: state({0, 1, 2, 3}, set()) for epoch in (0, 1)}, now=0.0)
        for tick in range(1, round(seconds / 0.05)):
            now = tick * 0.05
            if changes:
                mine.members_changed(now)
            if isinstance(mine.choose(0, 9, now), NeedListing):
                listings += 1
                mine.listed({epoch: state({0, 1, 2, 3}, set()) for epoch in (0, 1)}, now)
    return listings * living // 20


def test_all_peers_together_list_no_more_often_when_there_are_ten_times_as_many() -> None:
    assert asked(100, 60.0, changes=False) <= 100 * 61
    assert asked(1000, 60.0, changes=False) <= 100 * 70
    assert asked(1000, 60.0, changes=True) <= 100 * 70


def test_a_long_ledger_is_listed_less_often() -> None:
    mine = chooser([1], living=1000)
    epochs = [state(set(range(10_000)), set())]
    mine.listed({0: epochs[0]}, now=0.0)
    mine.tried((*ids(0, 1), *ids(1, 1)))
    choice = mine.choose(0, 1, now=50.0)
    assert isinstance(choice, Wait)
    assert choice.again_at == 100.0


def test_finished_and_folded_epochs_are_left_alone() -> None:
    mine = chooser([0, 1, 2, 3])
    mine.choose(0, 1, now=10.0)
    mine.listed({0: state(set(), {0, 1, 2, 3})}, now=10.0)
    assert mine.choose(0, 1, now=10.0) == Claim(ids(1, 0), "planned, or left by others")
    assert isinstance(mine.choose(2, 1, now=10.0), Wait)


@settings(max_examples=100)
@given(st.integers(2, 5), st.integers(1, 6), st.integers(0, 10**6))
def test_peers_that_claim_and_die_at_random_end_up_with_every_chunk_done_once(
    peers: int, epochs: int, seed: int
) -> None:
    """A ledger in a dictionary, and peers that follow their choosers; one of them may die and free what it owned."""
    rng = random.Random(seed)
    geometry = Epochs(records=70, chunk_records=10, budget_samples=70 * epochs, seed=seed)
    owner: dict[ChunkId, int] = {}
    done: set[ChunkId] = set()
    shards = [[chunk for chunk in range(7) if chunk % peers == peer] for peer in range(peers)]
    choosers = {
        peer: Chooser(geometry, shards[peer].copy, random.Random(seed + peer)) for peer in range(peers)
    }
    now = 0.0
    for _ in range(10_000):
        if len(done) == 7 * epochs:
            break
        now += 0.05
        peer = rng.choice(list(choosers))
        choice = choosers[peer].choose(0, rng.randint(1, 9), now)
        if isinstance(choice, Claim):
            choosers[peer].tried(choice.chunks)
            owner.update({chunk: peer for chunk in choice.chunks if chunk not in owner and chunk not in done})
        elif isinstance(choice, NeedListing):
            open_epochs = {chunk.epoch for chunk in (*owner, *done)}
            choosers[peer].listed(
                {
                    epoch: state(
                        {c.chunk for c in owner if c.epoch == epoch},
                        {c.chunk for c in done if c.epoch == epoch},
                    )
                    for epoch in open_epochs
                },
                now,
            )
        for chunk in [chunk for chunk, its in owner.items() if its == peer and rng.random() < 0.5]:
            del owner[chunk]
            assert chunk not in done
            done.add(chunk)
        if len(choosers) > 1 and rng.random() < 0.02:
            dead = rng.choice(list(choosers))
            del choosers[dead]
            owner = {chunk: its for chunk, its in owner.items() if its != dead}
            for chooser_ in choosers.values():
                chooser_.members_changed(now)
    assert len(done) == 7 * epochs


def test_who_has_no_shard_looks_through_what_is_within_reach_and_not_through_the_whole_budget() -> None:
    """90 chunks an epoch, 100,000 epochs: at each of three listings others have all of the oldest epochs."""
    mine = chooser([], records=900, budget=90_000_000)
    most = 2 + LOOKS_AHEAD_CHUNKS // 90
    for look in range(1, 4):
        mine.choose(0, 50, now=10.0 * look)
        mine.listed({epoch: state(set(range(90)), set()) for epoch in range(3)}, now=10.0 * look)
        found = mine.choose(0, 50, now=10.0 * look)
        assert isinstance(found, Claim)
        assert [chunk.epoch for chunk in found.chunks] == [3] * 50
        assert not mine.planned(0, 50, ())
        assert len(mine.known) <= most


def test_among_many_peers_there_is_always_more_within_reach_than_all_of_them_own() -> None:
    mine = chooser([0], records=10, budget=1_000_000, living=1000)
    taken = {epoch: state({0}, set()) for epoch in range(10 * 1000)}
    mine.listed(taken, now=10.0)
    found = mine.choose(0, 5, now=10.1)
    assert isinstance(found, Claim)
    assert found.chunks == tuple(ChunkId(epoch, 0) for epoch in range(10_000, 10_005))
