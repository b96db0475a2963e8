"""The checks of this machine, of an etcd, and of the needs of a job, for asynchronous callers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from gossip_caffe.api.places import endpoints, is_allowed, only_ours
from gossip_caffe.api.values.html import table
from gossip_caffe.checkpoint.announce import announced
from gossip_caffe.clock import SystemClock
from gossip_caffe.doctor.certificate_checks import certificate_checks
from gossip_caffe.doctor.check_result import CheckResult, can_train
from gossip_caffe.doctor.etcd_checks import etcd_checks
from gossip_caffe.doctor.etcd_facts import gather_facts
from gossip_caffe.doctor.job_checks import job_checks
from gossip_caffe.doctor.machine import machine_checks
from gossip_caffe.doctor.peer_checks import peer_checks
from gossip_caffe.errors import GossipCaffeError
from gossip_caffe.job.relocation import DataRoot, relocated
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.jobs import job_or_only_one
from gossip_caffe.membership.keys import keys_of
from gossip_caffe.membership.members import list_members
from gossip_caffe.observe.log.ignored import Note, discard_note
from gossip_caffe.security.given import or_of_environment
from gossip_caffe.security.security import Security

HEADINGS = ("WHAT", "", "FOUND", "WHAT TO DO")


class Checks(tuple[CheckResult, ...]):
    """The results of checks, each with ``what``, ``good``, ``needed``, ``found`` and ``remedy``."""

    __slots__ = ()

    @property
    def can_train(self) -> bool:
        """True if no check failed that a peer needs."""
        return can_train(self)

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Return the rows of a table below HEADINGS."""
        return [(entry.what, entry.mark, entry.found, "" if entry.good else entry.remedy) for entry in self]

    def _repr_html_(self) -> str:
        return table(HEADINGS, self.rows())


async def check(
    etcd: str | None = None,
    *,
    cluster: str = "",
    job: str | None = None,
    data_roots: Sequence[str] = (),
    allow_code: bool | None = None,
    security: Security | None = None,
    ignored: Note = discard_note,
) -> Checks:
    """Check that this machine has all that a peer needs, as ``gossip-caffe doctor`` does.

    With ``etcd`` or ``cluster``, which are those of ``connect``, each member of that etcd is checked, too. With
    ``job`` ("": the only one) the job's data, store and memory are checked from here, and the ports of its peers.
    ``data_roots``: "OLD=NEW" for paths that differ on this machine. ``allow_code``: look at data that code of the job
    makes; None: $GOSSIP_CAFFE_ALLOW_CODE, else only with the etcd of a local cluster, or one that authenticates its
    users. ``ignored`` is called for records that are not believed. Raises UsageError when etcd or the job is not clear;
    a fault is a result.
    """
    security = or_of_environment(security)
    clock = SystemClock()
    found = await asyncio.to_thread(machine_checks)
    found += certificate_checks(security, job or "", clock.wall())
    if etcd is not None or cluster or job is not None:
        where = await asyncio.to_thread(endpoints, etcd, cluster, security)
        found += etcd_checks(await gather_facts(where, clock, random.Random(), security))
        if job is not None:
            ours = await asyncio.to_thread(only_ours, etcd, cluster, security)
            allowed = is_allowed(allow_code, ours=ours)
            found += await _job(where, job, data_roots, allowed, security, ignored)
    return Checks(found)


async def _job(
    where: tuple[str, ...],
    name: str,
    data_roots: Sequence[str],
    allow_code: bool | None,
    security: Security,
    ignored: Note,
) -> list[CheckResult]:
    clock = SystemClock()
    store = EtcdStore(where, clock, random.Random(), security=security)
    try:
        spec = await job_or_only_one(store, name)
        keys = keys_of(spec.name)
        members = await list_members(store, keys, ignored)
        held = await announced(store, keys, ignored)
        peers = await peer_checks(members, spec.name, held, clock, security)
        allowed = await store.guards_writes() if allow_code is None else allow_code
    except GossipCaffeError as error:
        return [CheckResult.of_error("job", error)]
    finally:
        await store.close()
    here = relocated(spec, tuple(map(DataRoot.parse, data_roots)))
    on_this_machine = all(endpoint.startswith("unix:") for endpoint in where)
    of_job = await asyncio.to_thread(job_checks, here, allow_code=allowed, is_local=on_this_machine)
    return [*of_job, *peers]
