"""The creation of a job of a solver file."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence

from gossip_caffe.api.starting.job_options import NewJob
from gossip_caffe.api.starting.new_job import Teller, read_spec
from gossip_caffe.api.train_options import new_job
from gossip_caffe.clock import SystemClock
from gossip_caffe.errors import NotFound
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.etcd.store import Store
from gossip_caffe.membership.jobs import create_job, load_job
from gossip_caffe.security.security import PLAIN, Security

LOG = logging.getLogger("gossip_caffe")


async def created(store: Store, job: str, solver: str, new: NewJob) -> bool:
    """Create a job of a solver file. Returns False when the same job is there already.

    Raises UsageError, ModelError or DataError for a wrong file; Conflict when another job has the name.
    """
    spec = await asyncio.to_thread(read_spec, job, solver, new, tell=Teller(LOG.info))
    return await create_job(store, spec)


async def created_if_missing(
    where: Sequence[str], job: str, solver: str, settings: Mapping[str, object], security: Security = PLAIN
) -> None:
    """Create a job of a solver file, unless there is one of that name. Scripts that do so at once create the same job.

    Raises as ``created`` does.
    """
    store = EtcdStore(where, SystemClock(), random.Random(), security=security)
    try:
        try:
            await load_job(store, job)
        except NotFound:
            await created(store, job, solver, new_job({"settings": settings}))
    finally:
        await store.close()
