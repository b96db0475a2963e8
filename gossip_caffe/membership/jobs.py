"""Jobs in the store: a job is created once and read by every peer."""

from __future__ import annotations

from gossip_caffe.errors import Conflict, NotFound, StoreRefused, UsageError
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.membership.etcd.store import Absent, Put, Store
from gossip_caffe.membership.keys import JOBS, JobKeys, is_name
from gossip_caffe.plain import shown


async def create_job(store: Store, spec: JobSpec) -> bool:
    """Store a job. Returns False when the same job was there already.

    Raises Conflict when a different job has the name.
    """
    key = JobKeys(spec.name).spec
    result = await store.transact([Absent(key)], [Put(key, spec.to_json())])
    if result.succeeded:
        return True
    if _read(result.found[0].value, spec.name).fingerprint != spec.fingerprint:
        raise Conflict(f"there is another job {spec.name!r}", remedy="choose another name, or train that one")
    return False


async def load_job(store: Store, name: str) -> JobSpec:
    """Read a job. Raises NotFound, which lists the jobs that exist."""
    item = await store.get(JobKeys(name).spec)
    if item is None:
        raise NotFound(
            f"there is no job {name!r}{await _known(store)}",
            remedy=f"make it with 'gossip-caffe job create {name} --solver solver.prototxt'",
        )
    return _read(item.value, name)


async def job_or_only_one(store: Store, name: str) -> JobSpec:
    """The job of that name; for "" the only job in the store. Raises NotFound, UsageError when there are several."""
    return await load_job(store, name or await only_job(store))


async def only_job(store: Store) -> str:
    """The name of the only job in the store. Raises NotFound when there is none, UsageError when there are several."""
    try:
        jobs = await list_jobs(store)
    except StoreRefused as error:
        raise UsageError(
            f"which job is meant is not clear: {error.message}", remedy="give the job's name (--job NAME)"
        ) from None
    if not jobs:
        raise NotFound(
            "there is no job in etcd",
            remedy="make one with 'gossip-caffe job create NAME --solver solver.prototxt'",
        )
    if len(jobs) > 1:
        raise UsageError(f"there are several jobs in etcd ({', '.join(jobs)})", remedy="give --job NAME")
    return jobs[0]


async def _known(store: Store) -> str:
    """The jobs that there are, in words; "" for a user that may not list them."""
    try:
        return f" (known: {', '.join(await list_jobs(store)) or 'none'})"
    except StoreRefused:
        return ""


def _read(value: bytes, name: str) -> JobSpec:
    """Parse a job's spec. Raises UsageError, which names the job, for a value that is no spec or has another name."""
    try:
        spec = JobSpec.from_json(value)
    except UsageError as error:
        raise UsageError(
            f"job {name!r} in etcd cannot be read: {error.message}", remedy=error.remedy
        ) from None
    if spec.name != name:
        # A peer takes the name in the spec as the prefix of all its keys, so that name must match the key.
        raise UsageError(
            f"job {name!r} in etcd cannot be read: it is the record of {shown(spec.name)}",
            remedy="create the job again",
        )
    return spec


async def list_jobs(store: Store) -> list[str]:
    """The names of all jobs, sorted. Keys whose name is not valid for a job are left out."""
    keys = await store.keys(JOBS)
    names = (key.removeprefix(JOBS).removesuffix("/spec") for key in keys if key.endswith("/spec"))
    return sorted(filter(is_name, names))
