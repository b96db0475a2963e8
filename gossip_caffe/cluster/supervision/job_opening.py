"""The start of a cluster in etcd: it creates its job, and waits until the leases of an earlier run have ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from gossip_caffe.errors import Conflict
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.membership.etcd.store import DeletePrefix, Operation, Put, Store
from gossip_caffe.membership.jobs import create_job
from gossip_caffe.membership.keys import JobKeys

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
