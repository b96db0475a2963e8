"""The announced checkpoints of a job, without announcements that cannot be true."""

from __future__ import annotations

from gossip_caffe.checkpoint.announce import Announcement, announced
from gossip_caffe.membership.etcd.store import Store
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.observe.log.ignored import Note, discard_note
from gossip_caffe.peer.core.dependencies import PeerDependencies


async def listed_of(world: PeerDependencies) -> list[Announcement]:
    """The announced checkpoints of this peer's job, newest first.

    An announcement beyond the job's budget is ignored, with a line. Raises StoreError.
    """
    return await listed_for(world.store, world.keys, world.spec.budget_samples, world.ignored.note)


async def listed_for(
    store: Store, keys: JobKeys, budget_samples: int, ignored: Note = discard_note
) -> list[Announcement]:
    """The announced checkpoints of a job with that budget, newest first, for peers and other processes.

    ``ignored`` is told of each announcement that cannot be true. Raises StoreError.
    """
    found = []
    for entry in await announced(store, keys, ignored):
        key, at = keys.checkpoint(entry.checkpoint), f"it is at {entry.progress_samples:,}"
        if entry.progress_samples > budget_samples:
            ignored(key, 0, f"{at} of {budget_samples:,} samples")
        elif not entry.checkpoint.startswith(f"{entry.progress_samples:014d}-"):
            ignored(key, 0, f"{at} samples, and its id says another number")
        else:
            found.append(entry)
    return found
