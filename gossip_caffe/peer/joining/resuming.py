"""The rollback of a job without living peers to a checkpoint: which peer does it, to which checkpoint, and how."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from gossip_caffe.checkpoint.announce import Announcement, announced
from gossip_caffe.checkpoint.manifest import Manifest, numbers_of
from gossip_caffe.checkpoint.withdrawn import withdraw
from gossip_caffe.clock import Clock
from gossip_caffe.errors import Conflict, NotFound, StoreError
from gossip_caffe.json_records import needed
from gossip_caffe.membership.etcd.store import Absent, CreatedAt, Delete, Guard, ModifiedAt, Put, Store
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import PeerRecord, list_members
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.observe.log.ignored import Note, discard_note
from gossip_caffe.peer.core.lifecycle import State
from gossip_caffe.shards.epochs import ChunkId, Epochs
from gossip_caffe.shards.rollback import Rollback, Target, read_account, rollback, take_back

NEWEST_ONLY_S = 10.0
"""Seconds during which only the newest checkpoint is accepted: its holder may be starting just now."""
GO_BACK_TTL_S = 10.0
VISITOR = "visitor"
"""The name of a process that is not a peer."""
HOLDS_WEIGHTS = frozenset({State.TRAINING.value, State.DRAINING.value})
"""The states in which a peer holds weights of the job: while one is in such a state, nothing learned is lost."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The checkpoints from which a job may go on now, the best first, and the reason for the choice."""

    checkpoints: tuple[Announcement, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class RollbackCount:
    """The number of a job's rollbacks, and the checkpoint of the last one; 0 and "" for a job without any."""

    times: int = 0
    checkpoint: str = ""

    def is_forgotten(self, now: RollbackCount) -> bool:
        """Whether a store that holds ``now`` has lost the record of this last rollback.

        The ledger then calls chunks done that no weights contain.
        """
        return now.times < self.times or (now.times == self.times and now.checkpoint != self.checkpoint)


NEVER = RollbackCount()


def candidates(listed: Sequence[Announcement], looked_for_s: float) -> Candidates:
    """Choose the checkpoints to try when no peer trains.

    ``listed``: the announced checkpoints, newest first. ``looked_for_s``: the seconds of attempts so far.
    """
    if not listed:
        return Candidates((), "there is no checkpoint")
    if looked_for_s < NEWEST_ONLY_S:
        return Candidates((listed[0],), "the newest, whose holder may be starting just now")
    return Candidates(tuple(listed), f"any: the newest was not to be had for {looked_for_s:.0f} s")


def target_of(manifest: Manifest) -> Target:
    """The ledger that belongs to a checkpoint: the chunks that its weights contain."""
    done = {ChunkId(epoch, chunk) for epoch, ranges in manifest.done for chunk in numbers_of(ranges)}
    return Target(manifest.checkpoint, manifest.folded, frozenset(done))


async def take_job_back(
    store: Store,
    writer: FencedWriter,
    keys: JobKeys,
    epochs: Epochs,
    manifest: Manifest,
    right: int,
    by: str = "",
) -> Rollback:
    """Set the ledger to the chunks that a checkpoint contains, and withdraw newer checkpoints, of another history.

    ``right`` is the revision at which this peer got the right to found the job or to take it back. Every write is
    guarded by it; Conflict is raised when another peer has the right. ``by``: this peer's name.
    """
    guard = CreatedAt(keys.founder, right)
    was = await read_account(store, keys)
    planned = rollback(was, target_of(manifest), epochs)
    newer = [entry for entry in await announced(store, keys) if entry.checkpoint > manifest.checkpoint]
    await _withdraw(store, writer, keys, newer, guard, by or manifest.maker)
    await take_back(writer, keys, planned, was, manifest.checkpoint, guard)
    # The rollback count is written last: a store that has it has all other writes too.
    times = (await rollback_count(store, keys)).times + 1
    count = Put(keys.rollbacks, json.dumps({"times": times, "checkpoint": manifest.checkpoint}).encode())
    if not (await writer.transact([guard], [count])).succeeded:
        raise Conflict("another peer takes the job back to a checkpoint", remedy="wait for it")
    return planned


async def rollback_count(
    store: Store, keys: JobKeys, ignored: Note = discard_note, otherwise: RollbackCount = NEVER
) -> RollbackCount:
    """The rollback count in the store; ``otherwise`` when its record cannot be read, which ``ignored`` is told."""
    item = await store.get(keys.rollbacks)
    if item is None:
        return RollbackCount()
    try:
        return RollbackCount(
            needed(keys.rollbacks, item.value, "times", int),
            needed(keys.rollbacks, item.value, "checkpoint", str),
        )
    except StoreError as error:
        ignored(item.key, item.mod_revision, error.message)
        return otherwise


async def _withdraw(
    store: Store, writer: FencedWriter, keys: JobKeys, entries: Sequence[Announcement], guard: Guard, by: str
) -> None:
    """Withdraw announcements, the newest first. Raises Conflict when the guard fails."""
    if not await withdraw(store, writer, keys, by, [entry.checkpoint for entry in entries], [guard]):
        raise Conflict("another peer takes the job back to a checkpoint", remedy="wait for it")


def chosen(listed: Sequence[Announcement], wanted: str, job: str) -> Announcement:
    """The announced checkpoint named ``wanted``, or else the newest one whose name begins with it.

    The full name takes precedence because the name of a founder's first checkpoint is the beginning of the names of
    its later ones. ``listed`` is newest first. Raises NotFound, which names all checkpoints.
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
    """As ``go_back``, for a process that is not a peer. ``nonce`` tells two processes apart that try it at once."""
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
    """Withdraw all checkpoints that are newer than ``wanted``: the next peer that starts goes on from it.

    Raises NotFound when there is no checkpoint of that name, Conflict while a peer of the job lives.
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
    await _withdraw(store, writer, keys, newer, guard, VISITOR)
    await writer.transact([guard], [Delete(keys.finished), Delete(keys.tested)])
    return back_to


async def take_right(store: Store, writer: FencedWriter, keys: JobKeys, peer: str, lease: int) -> int | None:
    """Get the right to found the job or to take it back, on a lease.

    Returns the revision of the right; None while another peer has it.
    """
    item = await store.get(keys.founder)
    if item is None:
        result = await writer.transact([Absent(keys.founder)], [Put(keys.founder, peer.encode(), lease)])
        return result.revision if result.succeeded else None
    if not item.lease:
        # The record belongs to no peer: a peer's record hangs on its lease, and this one would stay for ever.
        await writer.transact([ModifiedAt(item.key, item.mod_revision)], [Delete(item.key)])
        return None
    return item.create_revision if item.lease == lease else None


async def living_peers(store: Store, keys: JobKeys) -> list[PeerRecord]:
    """The peers that hold weights, read from the store now: a watch may be behind."""
    return [record for record in await list_members(store, keys) if record.state in HOLDS_WEIGHTS]
