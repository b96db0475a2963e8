"""Access to a job's weights for a process that is not a peer: a checkpoint, or the mean of the peers that train."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.checkpoint.expected import Expected
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.manifest import Manifest
from gossip_caffe.checkpoint.pull import FileClient, pull, silent
from gossip_caffe.checkpoint.url_store import remote_store_of
from gossip_caffe.errors import CheckpointRefused, NotFound
from gossip_caffe.gossip.averaging.bound import limit_of
from gossip_caffe.gossip.codecs.message import Message
from gossip_caffe.gossip.consensus import Consensus, mean_of
from gossip_caffe.gossip.protocol.transport import Transport
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.membership.etcd.store import Store
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import list_members
from gossip_caffe.observe.log.ignored import Note, discard_note
from gossip_caffe.observe.log.status import PeerStatus
from gossip_caffe.peer.checkpoints.announcing import listed_for
from gossip_caffe.peer.core.lifecycle import State
from gossip_caffe.peer.joining.resuming import VISITOR, chosen
from gossip_caffe.solver.engines.layout import WeightLayout


async def fetch(
    store: Store,
    files: FileClient,
    spec: JobSpec,
    wanted: str,
    folder: CheckpointFolder,
    rng: random.Random,
    on_progress: Callable[[int, int], None] = silent,
    ignored: Note = discard_note,
) -> Manifest:
    """Fetch a checkpoint into ``folder`` and verify it: the one whose name begins with ``wanted``, or the newest.

    With ``wanted`` empty, the next older checkpoint is tried when no holder has one whole. ``ignored`` is then told,
    because any process may have announced that checkpoint. A whole copy in ``folder`` is not fetched again. Raises
    NotFound when there is no such checkpoint, CheckpointRefused when no holder has it whole.
    """
    keys = JobKeys(spec.name)
    listed = await listed_for(store, keys, spec.budget_samples, ignored)
    first = chosen(listed, wanted, spec.name)
    refused: CheckpointRefused | None = None
    for entry in [first] if wanted else listed:
        try:
            return await _fetched(files, spec, entry, folder, rng, on_progress)
        except CheckpointRefused as error:
            refused = refused or error
            if not wanted:
                ignored(keys.checkpoint(entry.checkpoint), 0, error.message)
    assert refused is not None  # at least one checkpoint was tried
    raise refused


async def _fetched(
    files: FileClient,
    spec: JobSpec,
    entry: Announcement,
    folder: CheckpointFolder,
    rng: random.Random,
    on_progress: Callable[[int, int], None],
) -> Manifest:
    try:
        manifest = folder.manifest(entry.checkpoint)
        if manifest.digest == entry.digest:
            return _verified(folder, spec, manifest)
    except (NotFound, CheckpointRefused):
        pass  # there is no copy here, or not a whole one
    return await fetch_from(files, spec, entry, folder, rng, on_progress, remote_store_of(spec))


async def fetch_from(
    files: FileClient,
    spec: JobSpec,
    entry: Announcement,
    folder: CheckpointFolder,
    rng: random.Random,
    on_progress: Callable[[int, int], None] = silent,
    remote_store: FileClient | None = None,
) -> Manifest:
    """Fetch an announced checkpoint from its holders, or from ``remote_store`` when no holder has it whole.

    ``on_progress`` is called with the bytes that are here and the bytes of all files. Raises CheckpointRefused when
    the checkpoint is whole nowhere.
    """
    manifest = await pull(
        entry,
        job=spec.name,
        client=files,
        folder=folder,
        rng=rng,
        on_progress=on_progress,
        remote_store=remote_store,
        expected=Expected.of(spec),
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
    """The mean of the weights of as many training peers as a checkpoint is made of, float32 of shape (layout.size,).

    Raises NotFound when no peer answers.
    """
    peers = await _training_peers(store, spec, layout.fingerprint)
    request = Message("", VISITOR, spec.name, layout.fingerprint)
    agreed = await mean_of(
        request,
        layout.size,
        peers,
        transport,
        rng,
        most=spec.settings.checkpoint_peers,
        half_limit=limit_of(spec.settings.half_limit, warm=False),
    )
    if agreed is None:
        raise NotFound(
            f"no peer of job {spec.name!r} trains now", remedy="leave --live out for its newest checkpoint"
        )
    return agreed


async def progress_of(store: Store, spec: JobSpec) -> int:
    """Samples that the job has trained, by the newest status of its peers; 0 when no peer lives."""
    newest = 0
    for item in (await store.list(JobKeys(spec.name).statuses)).items:
        try:
            newest = max(newest, PeerStatus.from_json(item.value).progress_samples)
        except ValueError:
            continue  # the status of a version that this one cannot read
    return newest


async def _training_peers(store: Store, spec: JobSpec, fingerprint: str) -> Mapping[str, str]:
    """The peers that train, with weights of this layout: peer → address."""
    return {
        record.peer: record.address
        for record in await list_members(store, JobKeys(spec.name))
        if record.state == State.TRAINING.value and record.fingerprint == fingerprint
    }
