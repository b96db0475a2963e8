"""What somebody who is no peer can have of a job's weights: a checkpoint, or the mean of those who train."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from gossip_caffe.checkpoint.announce import Announcement, announced
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.manifest import Manifest
from gossip_caffe.checkpoint.pull import FileClient, pull, silent
from gossip_caffe.checkpoint.url_store import elsewhere_of
from gossip_caffe.errors import CheckpointRefused, NotFound
from gossip_caffe.gossip.collect import Consensus, mean_of
from gossip_caffe.gossip.message import Message
from gossip_caffe.gossip.transport import Transport
from gossip_caffe.job.spec import JobSpec
from gossip_caffe.membership.jobs import list_jobs, load_job
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.membership.store import Store
from gossip_caffe.observe.status import PeerStatus
from gossip_caffe.peer.lifecycle import State
from gossip_caffe.peer.resuming import VISITOR, chosen
from gossip_caffe.solver.layout import WeightLayout


async def job_or_only_one(store: Store, name: str) -> JobSpec:
    """The job of that name; of no name: the only one that there is. Raises NotFound."""
    if name:
        return await load_job(store, name)
    jobs = await list_jobs(store)
    if len(jobs) != 1:
        found = f"there are several jobs ({', '.join(jobs)})" if jobs else "there is no job"
        raise NotFound(found, remedy="name one with --job" if jobs else "start one, or give --etcd")
    return await load_job(store, jobs[0])


async def fetch(
    store: Store,
    files: FileClient,
    spec: JobSpec,
    wanted: str,
    folder: CheckpointFolder,
    rng: random.Random,
    on_progress: Callable[[int, int], None] = silent,
) -> Manifest:
    """Bring a checkpoint into ``folder``, whole and verified: the newest, or the one whose name begins with ``wanted``.

    One that is there already, and whole, is not fetched again. Raises NotFound when there is none, CheckpointRefused
    when no holder has it whole.
    """
    entry = chosen(await announced(store, JobKeys(spec.name)), wanted, spec.name)
    try:
        manifest = folder.manifest(entry.checkpoint)
        if manifest.digest == entry.digest:
            return _verified(folder, spec, manifest)
    except (NotFound, CheckpointRefused):
        pass  # not here, or not whole
    return await fetch_from(files, spec, entry, folder, rng, on_progress, elsewhere_of(spec))


async def fetch_from(
    files: FileClient,
    spec: JobSpec,
    entry: Announcement,
    folder: CheckpointFolder,
    rng: random.Random,
    on_progress: Callable[[int, int], None] = silent,
    elsewhere: FileClient | None = None,
) -> Manifest:
    """Bring one from its holders, and from ``elsewhere`` where none has it whole.

    Raises CheckpointRefused when nobody has.
    """
    manifest = await pull(
        entry,
        job=spec.name,
        client=files,
        folder=folder,
        rng=rng,
        on_progress=on_progress,
        elsewhere=elsewhere,
    )
    return _verified(folder, spec, manifest)


def _verified(folder: CheckpointFolder, spec: JobSpec, manifest: Manifest) -> Manifest:
    folder.load(
        manifest.checkpoint,
        job_fingerprint=spec.fingerprint,
        layout_fingerprint=manifest.weight_layout().fingerprint,
    )
    return manifest


async def living_mean(
    store: Store, transport: Transport, spec: JobSpec, layout: WeightLayout, rng: random.Random
) -> Consensus:
    """The mean of those who train now, of as many as a checkpoint is made of. Raises NotFound when nobody answers."""
    peers = await _training(store, spec, layout.fingerprint)
    request = Message("", VISITOR, spec.name, layout.fingerprint)
    agreed = await mean_of(request, layout.size, peers, transport, rng, most=spec.settings.checkpoint_peers)
    if agreed is None:
        raise NotFound(
            f"no peer of job {spec.name!r} trains now", remedy="leave --live out for its newest checkpoint"
        )
    return agreed


async def progress_of(store: Store, spec: JobSpec) -> int:
    """Samples that the job has trained, as its peers say; 0 when none lives."""
    newest = 0
    for item in (await store.list(JobKeys(spec.name).statuses)).items:
        try:
            newest = max(newest, PeerStatus.from_json(item.value).progress_samples)
        except ValueError:
            continue  # of a version that we cannot read
    return newest


async def _training(store: Store, spec: JobSpec, fingerprint: str) -> Mapping[str, str]:
    """Peer → address."""
    found = {}
    for item in (await store.list(JobKeys(spec.name).peers)).items:
        try:
            record = PeerRecord.from_json(item.value)
        except ValueError:
            continue  # of a version that we cannot read
        if record.state == State.TRAINING.value and record.fingerprint == fingerprint:
            found[record.peer] = record.address
    return found
