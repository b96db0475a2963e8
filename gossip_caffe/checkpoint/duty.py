"""Who makes checkpoints, and when: one peer at a time, on its lease, and anyone can take over."""

from __future__ import annotations

from dataclasses import dataclass

from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.store import Absent, CreatedAt, Delete, Put, Store

CHECKPOINTS = "checkpoint"


@dataclass(frozen=True, slots=True)
class Held:
    """Whether this peer holds the duty; ``revision`` fences what it writes in that role."""

    ours: bool
    holder: str
    revision: int


async def take(store: Store, writer: FencedWriter, keys: JobKeys, peer: str, lease: int) -> Held:
    """Take the duty if nobody has it; asks first, because it is nearly always taken."""
    key = keys.duty(CHECKPOINTS)
    item = await store.get(key)
    if item is None:
        result = await writer.transact([Absent(key)], [Put(key, peer.encode(), lease)])
        if result.succeeded:
            return Held(True, peer, result.revision)
        item = result.found[0] if result.found else None
    if item is None:
        return Held(False, "", 0)
    return Held(
        item.value == peer.encode() and item.lease == lease,
        item.value.decode(errors="replace"),
        item.create_revision,
    )


async def give_up(writer: FencedWriter, keys: JobKeys, held: Held) -> None:
    """Let somebody else take the duty now; nothing happens when it is not ours any more."""
    if held.ours:
        key = keys.duty(CHECKPOINTS)
        await writer.transact([CreatedAt(key, held.revision)], [Delete(key)])


@dataclass(frozen=True, slots=True)
class Due:
    """Whether to make a checkpoint now, and why or why not."""

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
) -> Due:
    """Decide by the samples that the job has trained, now and at the last checkpoint.

    ``alone_unsettled``: there is no partner, and learning waits for a checkpoint to count as done.
    ``snapshot``: one of the solver's snapshots is due.
    """
    if finished:
        return Due(True, "the budget is trained")
    if alone_unsettled:
        return Due(True, "there is no partner to share with")
    if snapshot:
        return Due(True, "the solver's snapshot is due")
    if progress_samples - last_samples >= every_samples:
        return Due(True, f"{progress_samples - last_samples} samples since the last")
    return Due(False, f"{progress_samples - last_samples} of {every_samples} samples since the last")
