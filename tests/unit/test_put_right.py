"""What somebody else wrote into the account, or over a peer's own record, is seen, said and put right."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.checkpoint.duty import CHECKPOINTS, take
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.etcd.store import Delete, DeletePrefix, KeyValue, Put
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.leave_requests import wait_for_leave_request
from gossip_caffe.membership.members import PeerRecord, Registration
from gossip_caffe.membership.removal import removed as taken_away
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.peer.joining.resuming import RollbackCount, rollback_count, take_right
from gossip_caffe.shards.audit import (
    not_settled,
    strays_among_members,
    strays_in_ledger,
    to_remove,
)
from gossip_caffe.shards.epochs import ChunkId
from gossip_caffe.shards.ledger import Settlement
from gossip_caffe.shards.rollback import UNREADABLE, read_account
from tests.fake_clock import FakeClock
from tests.unit.test_ledger import EPOCHS, Member

KEYS = JobKeys("j")
RECORD = PeerRecord("a", "", "here:1", "here", 1, "training")
GARBAGE = [b"", b"\xff", b"{", b"[]", b"null", b"{}", b"0", b"[" * 5000]
FOLDED = [
    *GARBAGE,
    b'{"epochs": -1}',
    b'{"epochs": 99}',
    b'{"epochs": true}',
    b'{"epochs": "1"}',
    b'{"epochs": 2}',
]


async def member(name: str = "a") -> tuple[Member, MemoryEtcd, list[str]]:
    """One, the store, and what it is told."""
    clock = FakeClock()
    etcd = MemoryEtcd(clock)
    made = Member(name, etcd, clock)
    await made.begin()
    return made, etcd, made.told


async def settled(one: Member, epoch: int) -> None:
    chunks = [ChunkId(epoch, chunk) for chunk in EPOCHS.order(epoch)]
    await one.claim(*chunks)
    await one.settle(*chunks)


async def test_a_key_that_is_written_again_meanwhile_does_not_keep_the_others_that_are_removed_with_it() -> (
    None
):
    one, etcd, _ = await member()
    keys = [f"{KEYS.ledger}stray/{n:03d}" for n in range(150)]
    for key in keys:
        etcd.transact([], [Put(key, b"")])
    seen = list((await one.store.list(f"{KEYS.ledger}stray/")).items)
    for key in (again := keys[::40]):
        etcd.transact([], [Put(key, b"again")])
    etcd.transact([], [Delete(keys[1])])
    gone = await taken_away(one.writer, seen)
    assert sorted(item.key for item in gone) == sorted({*keys} - {*again, keys[1]})
    assert list(await one.store.keys(f"{KEYS.ledger}stray/")) == again


# ── how many epochs are folded ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", [*FOLDED, None], ids=str)
async def test_what_no_peer_wrote_under_folded_is_put_right_by_who_knows(value: bytes | None) -> None:
    one, etcd, told = await member()
    await settled(one, 0)
    assert await one.ledger.fold() == 1
    etcd.transact([], [Delete(KEYS.folded) if value is None else Put(KEYS.folded, value)])
    assert await one.ledger.refresh() == 1
    assert json.loads(etcd.keys[KEYS.folded].value)["epochs"] == 1
    assert told == [KEYS.folded]
    await settled(one, 1)
    assert await one.ledger.fold() == 2
    assert told == [KEYS.folded]


@pytest.mark.parametrize("value", GARBAGE, ids=str)
async def test_who_knows_no_better_waits_for_others_and_ends_by_nothing(value: bytes) -> None:
    one, etcd, told = await member()
    await settled(one, 0)
    await one.ledger.fold()
    etcd.transact([], [Put(KEYS.folded, value), Put(KEYS.folded_copy, value)])
    late = await Member("b", etcd, one.session._clock).begin()  # type: ignore[arg-type]
    assert late.ledger.folded == 0
    assert not told
    await one.ledger.refresh()
    assert await late.ledger.refresh() == 1
    etcd.transact([], [Put(KEYS.folded, value), Put(KEYS.folded_copy, value)])
    assert (await read_account(one.store, KEYS)).folded == UNREADABLE, "a job that goes back writes it anew"


@pytest.mark.parametrize("value", [*FOLDED, None], ids=str)
async def test_who_registers_again_still_knows_how_many_epochs_are_folded(value: bytes | None) -> None:
    """Whoever removes ``folded`` with all fences makes every peer begin anew at once: none may believe it."""
    one, etcd, _ = await member()
    await settled(one, 0)
    await one.ledger.fold()
    etcd.transact([], [Delete(KEYS.fence("a"))])
    for key in (KEYS.folded, KEYS.folded_copy):
        etcd.transact([], [Delete(key) if value is None else Put(key, value)])
    again = await Member("a", etcd, one.session._clock).begin()  # type: ignore[arg-type]
    again.ledger.recall(one.ledger)
    assert await again.ledger.refresh() == 1
    assert json.loads(etcd.keys[KEYS.folded].value)["epochs"] == 1
    assert again.told == [KEYS.folded]


@pytest.mark.parametrize("value", [*FOLDED, None], ids=str)
async def test_a_peer_that_missed_a_fold_does_not_claim_the_epoch_again_when_the_record_is_gone(
    value: bytes | None,
) -> None:
    """A real one, seed 394 of 16 peers with all faults: the record was removed right after the fold."""
    one, etcd, _ = await member()
    late = await Member("b", etcd, FakeClock()).begin()
    await settled(one, 0)
    assert await one.ledger.fold() == 1
    etcd.transact([], [Delete(KEYS.folded) if value is None else Put(KEYS.folded, value)])
    first = EPOCHS.order(0)[0]
    claimed = await late.ledger.claim([ChunkId(0, first)], late.session.id)
    assert not claimed.owned
    assert claimed.done == {ChunkId(0, first)}
    assert late.ledger.folded == 1
    assert json.loads(etcd.keys[KEYS.folded].value)["epochs"] == 1
    assert late.told == [KEYS.folded]


@pytest.mark.parametrize("value", [*FOLDED, None], ids=str)
async def test_a_copy_of_the_record_that_no_peer_wrote_harms_nothing(value: bytes | None) -> None:
    one, etcd, _ = await member()
    late = await Member("b", etcd, FakeClock()).begin()
    if value is not None:
        etcd.transact([], [Put(KEYS.folded_copy, value)])
    if value != b'{"epochs": 2}':  # an account in the right form is believed, as it is under the other key
        await settled(late, 0)
        assert await late.ledger.fold() == 1
        etcd.transact([], [Delete(KEYS.folded_copy) if value is None else Put(KEYS.folded_copy, value)])
        await settled(one, 1)
        assert await one.ledger.fold() == 2
        assert (await read_account(one.store, KEYS)).folded == 2


async def test_who_registers_again_believes_what_others_have_folded_or_taken_back_meanwhile() -> None:
    one, etcd, told = await member()
    await settled(one, 0)
    await one.ledger.fold()
    for value, epochs in ((b'{"epochs": 2, "by": "b"}', 2), (b'{"epochs": 0, "back": 1}', 0)):
        etcd.transact([], [Put(KEYS.folded, value)])
        etcd.transact([], [Delete(KEYS.fence("a"))])
        again = await Member("a", etcd, one.session._clock).begin()  # type: ignore[arg-type]
        again.ledger.recall(one.ledger)
        assert await again.ledger.refresh() == epochs
    assert not told


async def test_a_job_that_was_taken_back_has_fewer_folded_epochs_and_that_is_believed() -> None:
    one, etcd, told = await member()
    await settled(one, 0)
    await one.ledger.fold()
    etcd.transact([], [Put(KEYS.folded, b'{"epochs": 0, "back": 1}')])
    assert await one.ledger.refresh() == 0
    assert not told


@pytest.mark.parametrize("knew", [1, 2])
async def test_what_others_fold_after_the_job_was_taken_back_is_believed_by_a_peer_that_missed_the_moment(
    knew: int,
) -> None:
    """Else it writes the old count again, and what is to be trained again counts as done."""
    one, etcd, told = await member()
    for epoch in range(knew):
        await settled(one, epoch)
    assert await one.ledger.fold() == knew
    other = await Member("b", etcd, one.session._clock).begin()  # type: ignore[arg-type]
    back = etcd.keys[KEYS.folded].mod_revision
    etcd.transact([], [Put(KEYS.folded, b'{"epochs": 0, "back": %d}' % back), DeletePrefix(KEYS.done_marks)])
    await other.ledger.refresh()
    await settled(other, 0)
    assert await other.ledger.fold() == 1
    assert await one.ledger.refresh() == 1
    assert not told
    await settled(one, 1)
    assert await one.ledger.fold() == 2
    assert json.loads(etcd.keys[KEYS.folded].value) == {"epochs": 2, "by": "a", "back": back}


async def test_a_record_of_an_earlier_rollback_is_not_believed() -> None:
    one, etcd, told = await member()
    await settled(one, 0)
    await one.ledger.fold()
    back = etcd.keys[KEYS.folded].mod_revision
    etcd.transact([], [Put(KEYS.folded, b'{"epochs": 1, "back": %d}' % back)])
    assert await one.ledger.refresh() == 1
    etcd.transact([], [Put(KEYS.folded, b'{"epochs": 0, "by": "b", "back": %d}' % (back - 1))])
    assert await one.ledger.refresh() == 1
    assert told == [KEYS.folded]
    assert json.loads(etcd.keys[KEYS.folded].value) == {"epochs": 1, "by": "a", "back": back}


# ── done marks ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "mark", [*GARBAGE, b'{"peer": "p0", "via": "x"}', b'{"peer": "p0", "via": "x", "claimed": 0}'], ids=str
)
async def test_an_epoch_is_not_folded_by_marks_of_chunks_that_nobody_claimed(mark: bytes) -> None:
    one, etcd, told = await member()
    mine, *others = EPOCHS.order(0)
    await one.claim(ChunkId(0, mine))
    await one.settle(ChunkId(0, mine))
    etcd.transact([], [Put(KEYS.done_mark(0, chunk), mark) for chunk in others])
    assert await one.ledger.fold() == 0
    assert sorted(told) == sorted(KEYS.done_mark(0, chunk) for chunk in others)
    assert etcd.under(KEYS.done(0)) == [KEYS.done_mark(0, mine)]
    await one.claim(*(ChunkId(0, chunk) for chunk in others))
    await one.settle(*(ChunkId(0, chunk) for chunk in others))
    assert await one.ledger.fold() == 1


async def test_a_mark_of_a_chunk_that_there_is_not_stands_for_no_other() -> None:
    one, etcd, told = await member()
    first, *rest = EPOCHS.order(0)
    await one.claim(*(ChunkId(0, chunk) for chunk in rest))
    await one.settle(*(ChunkId(0, chunk) for chunk in rest))
    etcd.transact([], [Put(KEYS.done_mark(0, 99), b'{"peer": "a", "via": "x", "claimed": 1}')])
    etcd.transact([], [Put(f"{KEYS.done(0)}x", b"")])
    assert await one.ledger.fold() == 0
    assert len(told) == 2
    states = await one.ledger.states()
    assert states[0].done == set(rest)
    assert first not in states[0].done


async def test_what_an_owner_settles_is_no_stray() -> None:
    one, etcd, _ = await member()
    await one.claim(ChunkId(0, 0), ChunkId(1, 3))
    await one.settle(ChunkId(1, 3))
    items = [etcd.keys[key] for key in etcd.under(KEYS.ledger)]
    assert strays_in_ledger(items, KEYS, EPOCHS, 0, {one.session.id}) == []
    assert [not_settled(etcd.keys[key]) for key in etcd.under(KEYS.done_marks)] == [""]
    await one.ledger.settle([Settlement(ChunkId(0, 0), one.owned[ChunkId(0, 0)], "00000000000001-a-ffff")])
    assert all(not not_settled(etcd.keys[key]) for key in etcd.under(KEYS.done_marks))


# ── the audit ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def item(key: str, value: bytes = b"", lease: int = 0, revision: int = 9) -> KeyValue:
    return KeyValue(key, value, revision, revision, lease)


def test_claims_that_hang_on_no_lease_go_at_once_and_those_of_no_member_at_the_second_look() -> None:
    claims = [
        item(KEYS.claim(0, 0), b"a", 7),
        item(KEYS.claim(0, 1), b"a", 0),
        item(KEYS.claim(0, 2), b"a", 8),
        item(KEYS.claim(7, 0), b"a", 7),
        item(f"{KEYS.ledger}what/else", b"a", 7),
    ]
    found = strays_in_ledger(claims, KEYS, EPOCHS, 0, {7})
    assert [(stray.item.key, stray.surely) for stray in found] == [
        (KEYS.claim(0, 1), True),
        (KEYS.claim(0, 2), False),
        (KEYS.claim(7, 0), True),
        (f"{KEYS.ledger}what/else", True),
    ]
    assert [stray.item.key for stray in to_remove(found, {})] == [claims[1].key, claims[3].key, claims[4].key]
    again = {stray.item.key: stray.item.mod_revision for stray in found}
    assert len(to_remove(found, again)) == 4
    assert len(to_remove(found, again | {claims[2].key: 8})) == 3, "it was written again meanwhile"


def test_a_hundred_bogus_members_go_and_those_who_live_stay() -> None:
    def record(name: str, lease: int, revision: int, said: int | None = None) -> KeyValue:
        of = dataclasses.replace(RECORD, peer=name, incarnation=f"{lease if said is None else said:x}")
        return item(KEYS.peer(name), of.to_json(), lease, revision)

    living = [record(f"p{number}", 10 + number, 1 + number) for number in range(5)]
    fences = {f"p{number}": 10 + number for number in range(5)}
    dead = [record(f"dead{number}", 10, 50 + number) for number in range(100)]  # all on p0's lease
    others = [
        record("none", 0, 200),
        record("lies", 77, 201, said=78),
        record("nowriter", 99, 202),
        item(KEYS.peer("garbage"), b"\xff", 0, 203),
    ]
    newer = item(KEYS.peer("newer"), b"\xff", 98, 204)
    found = strays_among_members([*dead, *living, *others, newer], KEYS, fences)
    assert {stray.item.key for stray in found} == {entry.key for entry in (*dead, *others)}
    assert {stray.item.key for stray in found if stray.surely} == {KEYS.peer("none"), KEYS.peer("garbage")}


@given(st.binary(max_size=60))
def test_no_bytes_are_a_settlement_by_chance(value: bytes) -> None:
    assert not_settled(item(KEYS.done_mark(0, 0), value))


# ── a peer's own record, and what hangs on no lease ───────────────────────────────────────────────────────────────────


async def registered() -> tuple[Registration, MemoryEtcd, MemoryStore, LeaseSession]:
    clock = FakeClock()
    etcd = MemoryEtcd(clock)
    store = MemoryStore(etcd)
    session = LeaseSession(store, clock, 60.0)
    await session.start()
    writer = FencedWriter(store, session, KEYS.fence("a"), clock)
    await writer.open()
    registration = Registration(writer, session, KEYS, RECORD)
    await registration.publish(state="training")
    return registration, etcd, store, session


def rewritten(etcd: MemoryEtcd, lease: int) -> None:
    value = etcd.keys[KEYS.peer("a")].value.replace(b"here:1", b"evil:9")
    etcd.transact([], [Put(KEYS.peer("a"), value, lease)])


def spoilt(etcd: MemoryEtcd, lease: int) -> None:
    etcd.transact([], [Put(KEYS.peer("a"), b"\xff", lease)])


def unleased(etcd: MemoryEtcd, lease: int) -> None:
    etcd.transact([], [Put(KEYS.peer("a"), etcd.keys[KEYS.peer("a")].value, 0)])


def removed(etcd: MemoryEtcd, lease: int) -> None:
    etcd.transact([], [Delete(KEYS.peer("a"))])


@pytest.mark.parametrize("foreign", [rewritten, spoilt, unleased, removed], ids=lambda how: str(how.__name__))
async def test_a_peer_writes_its_own_record_again(foreign: Callable[[MemoryEtcd, int], None]) -> None:
    registration, etcd, store, session = await registered()
    assert await registration.put_right(store) is None
    foreign(etcd, session.id)
    assert await registration.put_right(store) is not None
    found = etcd.keys[KEYS.peer("a")]
    assert (PeerRecord.from_json(found.value), found.lease) == (registration.record, session.id)
    await registration.publish(weight=2.0)
    assert await registration.put_right(store) is None
    await session.close()
    assert await registration.put_right(store) is None, "who has left writes nothing"


async def test_duties_rights_and_fences_that_hang_on_no_lease_are_nobodys() -> None:
    clock = FakeClock()
    etcd = MemoryEtcd(clock)
    store = MemoryStore(etcd)
    for key in (KEYS.duty(CHECKPOINTS), KEYS.founder, KEYS.fence("a")):
        etcd.transact([], [Put(key, b"\xff")])
    session = LeaseSession(store, clock, 60.0)
    await session.start()
    writer = FencedWriter(store, session, KEYS.fence("a"), clock)
    await writer.open()
    assert (await take(store, writer, KEYS, "a", session.id)).ours or (
        await take(store, writer, KEYS, "a", session.id)
    ).ours
    assert await take_right(store, writer, KEYS, "a", session.id) is None
    assert await take_right(store, writer, KEYS, "a", session.id) is not None
    await session.close()


async def test_only_a_request_on_its_own_lease_makes_a_peer_leave() -> None:
    etcd = MemoryEtcd(FakeClock())
    mine, other = etcd.grant(60.0).id, etcd.grant(60.0).id
    noted: list[str] = []
    asking = asyncio.ensure_future(
        wait_for_leave_request(
            MemoryStore(etcd), KEYS, "a", lambda: mine, lambda key, revision, why: noted.append(why)
        )
    )
    good = json.dumps({"by": "peer stop"}).encode()
    for value, lease in (
        (good, 0),
        (good, other),
        (b'{"by": 5}', mine),
        (json.dumps({"by": "\x1b[2J"}).encode(), mine),
        (json.dumps({"by": "x" * 999}).encode(), mine),
        (b"\xff", mine),
    ):
        etcd.transact([], [Put(KEYS.leave("a"), value, lease)])
        for _ in range(10):
            await asyncio.sleep(0)
        assert not asking.done()
    assert len(noted) == 6
    etcd.transact([], [Put(KEYS.leave("a"), good, mine)])
    assert await asyncio.wait_for(asking, 5) == "peer stop"


@pytest.mark.parametrize("value", GARBAGE, ids=str)
async def test_garbage_under_rollbacks_says_nothing_against_what_a_peer_knows(value: bytes) -> None:
    etcd = MemoryEtcd(FakeClock())
    etcd.transact([], [Put(KEYS.rollbacks, value)])
    known = RollbackCount(2, "c")
    assert await rollback_count(MemoryStore(etcd), KEYS, otherwise=known) == known
