"""A cluster and the leases in etcd: it creates its job, and waits for the ends of leases before and after its run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from gossip_caffe.errors import Conflict, StoreUnavailable
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.membership.etcd.store import DeletePrefix, Operation, Put, Store
from gossip_caffe.membership.jobs import create_job
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.leave_requests import ask_to_leave

OLD_LEASES_DEADLINE_S = 60.0
LOOK_EVERY_S = 0.2


async def open_job(store: Store, spec: JobSpec, *, ours_alone: bool) -> str:
    """Create the cluster's job. Returns one line that says what was done.

    ``ours_alone``: no other cluster uses this etcd; then an untrained job of that name is replaced, so that a corrected
    job needs no new name. Raises Conflict when a different job of that name has been trained.
    """
    try:
        return f"job {spec.name} {'created' if await create_job(store, spec) else 'exists already'}"
    except Conflict:
        keys = JobKeys(spec.name)
        if not ours_alone or await store.keys(keys.checkpoints):
            raise Conflict(
                f"job {spec.name!r} was made of another solver, other data or other settings",
                remedy="give this job another name with --job NAME, or use another cluster with --name",
            ) from None
    operations: list[Operation] = [DeletePrefix(keys.root), Put(keys.spec, spec.to_json())]
    for operation in operations:  # etcd takes no two operations on one key in one transaction
        await store.transact([], [operation])
    return f"job {spec.name} created again: the old one was never trained"


async def old_leases_end(
    store: Store, job: str, peers: Sequence[str], say: Callable[[str], None], give_up: asyncio.Event
) -> None:
    """Wait until the leases of an earlier supervisor's killed peers have ended: the new peers need their names."""
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


async def others_leave(store: Store, job: str, patience_s: float) -> None:
    """Ask all peers that are registered to leave, and wait until none is any more, for so long at most."""
    keys, deadline = JobKeys(job), time.monotonic() + patience_s
    asked: set[str] = set()
    try:
        while time.monotonic() < deadline and (fences := await store.keys(keys.fence(""))):
            for peer in {fence.removeprefix(keys.fence("")) for fence in fences} - asked:
                await ask_to_leave(store, keys, peer, "rank 0 has ended")
                asked.add(peer)
            await asyncio.sleep(LOOK_EVERY_S)
    except StoreUnavailable:
        return  # there is nothing that could still be waited for
