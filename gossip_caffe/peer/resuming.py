"""A job of which nobody lives any more goes on from a checkpoint: who takes it back, from which, and to what."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from gossip_caffe.checkpoint.announce import Announcement, announced
from gossip_caffe.checkpoint.manifest import Manifest, numbers_of
from gossip_caffe.clock import Clock
from gossip_caffe.errors import Conflict, NotFound
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.membership.store import Absent, CreatedAt, Delete, Guard, Operation, Put, Store
from gossip_caffe.peer.lifecycle import State
from gossip_caffe.shards.epochs import ChunkId, Epochs
from gossip_caffe.shards.rollback import Rollback, Target, rollback, standing, take_back
from gossip_caffe.stored import needed

NEWEST_ONLY_S = 10.0
"""How long only the newest checkpoint will do: whoever holds it may be starting just now."""
DELETES_PER_TRANSACTION = 64
GO_BACK_TTL_S = 10.0
VISITOR = "visitor"
"""What somebody who is no peer calls itself."""
HOLDS_WEIGHTS = frozenset({State.TRAINING.value, State.DRAINING.value})
"""While a peer is in one of these states, what it learned is not lost."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The checkpoints from which a job may go on now, the best first, and why these."""

    checkpoints: tuple[Announcement, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class TimesBack:
    """How often a job was taken back to a checkpoint, and to which the last time."""

    times: int = 0
    checkpoint: str = ""

    def is_forgotten(self, now: TimesBack) -> bool:
        """Whether a store that says ``now`` has forgotten that it was taken back so.

        Its account then says again that things are done which no weights hold.
        """
        return now.times < self.times or (now.times == self.times and now.checkpoint != self.checkpoint)


def candidates(listed: Sequence[Announcement], looked_for_s: float) -> Candidates:
    """Choose, when nobody trains: ``listed`` is newest first, ``looked_for_s`` how long it has been tried already."""
    if not listed:
        return Candidates((), "there is no checkpoint")
    if looked_for_s < NEWEST_ONLY_S:
        return Candidates((listed[0],), "the newest, whose holder may be starting just now")
    return Candidates(tuple(listed), f"any: the newest was not to be had for {looked_for_s:.0f} s")


def target_of(manifest: Manifest) -> Target:
    """What a checkpoint's weights hold."""
    done = {ChunkId(epoch, chunk) for epoch, ranges in manifest.done for chunk in numbers_of(ranges)}
    return Target(manifest.checkpoint, manifest.folded, frozenset(done))


async def take_job_back(
    store: Store, writer: FencedWriter, keys: JobKeys, epochs: Epochs, manifest: Manifest, right: int
) -> Rollback:
    """Let the account say what a checkpoint holds, and withdraw newer checkpoints, which are of another history.

    ``right`` is the revision at which this peer got the right to found the job or to take it back; whoever loses it
    writes nothing more. Raises Conflict then.
    """
    guard = CreatedAt(keys.founder, right)
    was = await standing(store, keys)
    planned = rollback(was, target_of(manifest), epochs)
    newer = [entry for entry in await announced(store, keys) if entry.checkpoint > manifest.checkpoint]
    await withdraw(writer, keys, newer, guard)
    await take_back(writer, keys, planned, was, manifest.checkpoint, guard)
    # The last thing that is written: a store that has it has all the rest.
    times = (await times_back(store, keys)).times + 1
    count = Put(keys.times_back, json.dumps({"times": times, "checkpoint": manifest.checkpoint}).encode())
    if not (await writer.transact([guard], [count])).succeeded:
        raise Conflict("another peer takes the job back to a checkpoint", remedy="wait for it")
    return planned


async def times_back(store: Store, keys: JobKeys) -> TimesBack:
    """How often the job was taken back, as the store has it."""
    item = await store.get(keys.times_back)
    if item is None:
        return TimesBack()
    times = needed(keys.times_back, item.value, "times", int)
    return TimesBack(times, needed(keys.times_back, item.value, "checkpoint", str))


async def withdraw(
    writer: FencedWriter, keys: JobKeys, entries: Sequence[Announcement], guard: Guard
) -> None:
    """Take announcements back, the newest first. Raises Conflict when the guard fails."""
    operations: list[Operation] = [Delete(keys.checkpoint(entry.checkpoint)) for entry in entries]
    for first in range(0, len(operations), DELETES_PER_TRANSACTION):
        part = operations[first : first + DELETES_PER_TRANSACTION]
        if not (await writer.transact([guard], part)).succeeded:
            raise Conflict("another peer takes the job back to a checkpoint", remedy="wait for it")


def chosen(listed: Sequence[Announcement], wanted: str, job: str) -> Announcement:
    """The announced checkpoint of that name, or else the newest whose name begins so. Raises NotFound, which names all.

    A founder's first checkpoint has a name that begins its later ones'.
    """
    if not listed:
        raise NotFound(f"job {job!r} has no checkpoint yet", remedy="try again when its peers train")
    named = [entry for entry in listed if entry.checkpoint == wanted]
    found = next((entry for entry in (*named, *listed) if entry.checkpoint.startswith(wanted)), None)
    if found is None:
        known = ", ".join(entry.checkpoint for entry in listed)
        raise NotFound(f"job {job!r} has no checkpoint {wanted!r}", remedy=f"choose one of {known}")
    return found


async def go_back_to(store: Store, clock: Clock, job: str, wanted: str, nonce: int) -> Announcement:
    """As ``go_back``, for somebody who is no peer; ``nonce`` makes two who try it at once two."""
    keys = JobKeys(job)
    session = LeaseSession(store, clock, GO_BACK_TTL_S)
    await session.start()
    try:
        writer = FencedWriter(store, session, keys.fence(f"{VISITOR}-{nonce:x}"), clock)
        await writer.open()
        return await go_back(store, writer, keys, session.id, wanted)
    finally:
        await session.close()


async def go_back(store: Store, writer: FencedWriter, keys: JobKeys, lease: int, wanted: str) -> Announcement:
    """Let ``wanted`` be the newest checkpoint again, on purpose: the next peer that starts goes on from it.

    Raises NotFound when there is none of that name, Conflict while a peer of the job lives.
    """
    right = await take_right(store, writer, keys, "", lease)
    living = [] if right is None else await living_peers(store, keys)
    if right is None or living:
        who = ", ".join(sorted(record.peer for record in living)) or "one is starting"
        raise Conflict(
            f"job {keys.job!r} cannot go back while its peers live ({who})",
            remedy="stop them first: 'gossip-caffe cluster down', or 'gossip-caffe peer stop'",
        )
    listed = await announced(store, keys)
    back_to = chosen(listed, wanted, keys.job)
    guard = CreatedAt(keys.founder, right)
    newer = [entry for entry in listed if entry.checkpoint > back_to.checkpoint]
    await withdraw(writer, keys, newer, guard)
    await writer.transact([guard], [Delete(keys.finished), Delete(keys.tested)])
    return back_to


async def take_right(store: Store, writer: FencedWriter, keys: JobKeys, peer: str, lease: int) -> int | None:
    """Get the right to found the job or to take it back, on a lease; its revision, None while another peer has it."""
    item = await store.get(keys.founder)
    if item is None:
        result = await writer.transact([Absent(keys.founder)], [Put(keys.founder, peer.encode(), lease)])
        return result.revision if result.succeeded else None
    return item.create_revision if item.lease == lease else None


async def living_peers(store: Store, keys: JobKeys) -> list[PeerRecord]:
    """Who trains or is about to leave, as the store has it now: not as a watch has told it so far."""
    found = []
    for item in (await store.list(keys.peers)).items:
        try:
            record = PeerRecord.from_json(item.value)
        except ValueError:
            continue  # of a version that we cannot read
        if record.state in HOLDS_WEIGHTS:
            found.append(record)
    return found
