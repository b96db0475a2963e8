"""What a cluster finds in etcd when it comes up: its job, and what an earlier run of the same cluster left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from gossip_caffe.errors import Conflict
from gossip_caffe.job.spec import JobSpec
from gossip_caffe.membership.jobs import create_job
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.store import DeletePrefix, Operation, Put, Store

OLD_LEASES_DEADLINE_S = 60.0
LOOK_EVERY_S = 0.2


async def open_job(store: Store, spec: JobSpec, *, ours_alone: bool) -> str:
    """Create the cluster's job; returns in words what was done.

    Raises Conflict when another job of that name has been trained; one that nobody has trained is replaced where the
    store is ``ours_alone``, so that a mistake that is corrected needs no new name.
    """
    try:
        return f"job {spec.name} {'created' if await create_job(store, spec) else 'is there already'}"
    except Conflict:
        keys = JobKeys(spec.name)
        if not ours_alone or await store.keys(keys.checkpoints):
            raise Conflict(
                f"job {spec.name!r} was made of another solver, other data or other settings",
                remedy="give this one a name of its own with --job NAME, or a cluster of its own with --name",
            ) from None
    operations: list[Operation] = [DeletePrefix(keys.root), Put(keys.spec, spec.to_json())]
    for operation in operations:  # etcd takes no two operations on one key in one transaction
        await store.transact([], [operation])
    return f"job {spec.name} created anew: nobody has trained the one before"


async def old_leases_end(
    store: Store, job: str, peers: Sequence[str], say: Callable[[str], None], give_up: asyncio.Event
) -> None:
    """Wait for the leases of peers that were killed with an earlier supervisor: their names are wanted again."""
    keys = JobKeys(job)
    wanted = {keys.fence(peer) for peer in peers}
    deadline = time.monotonic() + OLD_LEASES_DEADLINE_S
    said = False
    while time.monotonic() < deadline and not give_up.is_set():
        if wanted.isdisjoint(await store.keys(keys.fence(""))):
            return
        if not said:
            say("waiting for the leases of the last run's peers to end")
            said = True
        await asyncio.sleep(LOOK_EVERY_S)
