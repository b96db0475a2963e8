"""Jobs in the store: made once, read by every peer."""

from __future__ import annotations

from gossip_caffe.errors import Conflict, NotFound
from gossip_caffe.job.spec import JobSpec
from gossip_caffe.membership.keys import JOBS, JobKeys
from gossip_caffe.membership.store import Absent, Put, Store


async def create_job(store: Store, spec: JobSpec) -> bool:
    """Store a job; False when it was there already, the same. Raises Conflict when another of that name is."""
    key = JobKeys(spec.name).spec
    result = await store.transact([Absent(key)], [Put(key, spec.to_json())])
    if result.succeeded:
        return True
    if JobSpec.from_json(result.found[0].value).fingerprint != spec.fingerprint:
        raise Conflict(f"there is another job {spec.name!r}", remedy="choose another name, or train that one")
    return False


async def load_job(store: Store, name: str) -> JobSpec:
    """Read a job. Raises NotFound, which names the jobs that there are."""
    item = await store.get(JobKeys(name).spec)
    if item is None:
        known = ", ".join(await list_jobs(store)) or "none"
        raise NotFound(
            f"there is no job {name!r} (known: {known})",
            remedy=f"make it with 'gossip-caffe job create {name} --solver solver.prototxt'",
        )
    return JobSpec.from_json(item.value)


async def list_jobs(store: Store) -> list[str]:
    """Names of all jobs, sorted."""
    keys = await store.keys(JOBS)
    return sorted(key.removeprefix(JOBS).removesuffix("/spec") for key in keys if key.endswith("/spec"))
