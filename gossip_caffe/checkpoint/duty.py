"""The duty of making checkpoints, and the times for it.

One peer has the duty, under its lease; any peer can take over.
"""

from __future__ import annotations

from dataclasses import dataclass

from gossip_caffe.membership.etcd.store import Absent, CreatedAt, Delete, ModifiedAt, Put, Store
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys

CHECKPOINTS = "checkpoint"


@dataclass(frozen=True, slots=True)
class HeldDuty:
    """Whether this peer has the duty. ``revision`` is the guard for all writes that it makes in this role."""

    ours: bool
    holder: str
    revision: int


async def take(store: Store, writer: FencedWriter, keys: JobKeys, peer: str, lease: int) -> HeldDuty:
    """Take the duty if no peer has it. It reads first, because nearly always another peer has it."""
    key = keys.duty(CHECKPOINTS)
    item = await store.get(key)
    if item is None:
        result = await writer.transact([Absent(key)], [Put(key, peer.encode(), lease)])
        if result.succeeded:
            return HeldDuty(True, peer, result.revision)
        item = result.found[0] if result.found else None
    if item is not None and not item.lease:
        # This key belongs to no peer: a peer attaches it to its lease. Left alone, it would block the duty for ever.
        await writer.transact([ModifiedAt(key, item.mod_revision)], [Delete(key)])
        item = None
    if item is None:
        return HeldDuty(False, "", 0)
    return HeldDuty(
        item.value == peer.encode() and item.lease == lease,
        item.value.decode(errors="replace"),
        item.create_revision,
    )


async def give_up(writer: FencedWriter, keys: JobKeys, held: HeldDuty) -> None:
    """Release the duty for another peer. Does nothing when this peer no longer has it."""
    if held.ours:
        key = keys.duty(CHECKPOINTS)
        await writer.transact([CreatedAt(key, held.revision)], [Delete(key)])


@dataclass(frozen=True, slots=True)
class Due:
    """Whether to make a checkpoint now, and the reason."""

    now: bool
    reason: str


def due(
    progress_samples: int,
    last_samples: int,
    every_samples: int,
    *,
    finished: bool,
    alone_unsettled: bool,
    snapshot: bool = False,
    asked: bool = False,
) -> Due:
    """Decide whether a checkpoint is due, by the samples that the job has trained, now and at the last checkpoint.

    ``alone_unsettled``: there is no partner, so chunks can be settled only by a checkpoint. ``snapshot``: one of the
    solver's snapshots is due. ``asked``: a person or a supervisor has asked for one now.
    """
    if finished:
        return Due(True, "the budget is trained")
    if alone_unsettled:
        return Due(True, "there is no partner to share with")
    if snapshot:
        return Due(True, "the solver's snapshot is due")
    if asked:
        return Due(True, "a snapshot is asked for")
    if progress_samples - last_samples >= every_samples:
        return Due(True, f"{progress_samples - last_samples} samples since the last")
    return Due(False, f"{progress_samples - last_samples} of {every_samples} samples since the last")
