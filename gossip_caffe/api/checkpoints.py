"""A job's checkpoints, for asynchronous callers: listed, fetched, exported, and loaded into a net."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.api.values.html import table
from gossip_caffe.api.values.net_weights import CaffeNet, load_blobs
from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.checkpoint.export import export as write
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.formats.caffemodel import blobs_in
from gossip_caffe.checkpoint.manifest import MODEL, Manifest
from gossip_caffe.checkpoint.pull import silent
from gossip_caffe.errors import NotFound
from gossip_caffe.gossip.transport.grpc_transport import GrpcTransport
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.observe.log.ignored import Note, discard_note
from gossip_caffe.peer.joining.resuming import chosen
from gossip_caffe.peer.outside_access import fetch

HEADINGS = ("CHECKPOINT", "ITERATION", "SAMPLES", "MADE", "HOLDERS")
OnBytes = Callable[[int, int], None]
"""Is called with (bytes that are here, bytes of all files)."""


@dataclass(frozen=True, slots=True)
class LocalCheckpoint:
    """A checkpoint on this machine, whole and verified. ``path``: its folder."""

    manifest: Manifest
    path: Path

    @property
    def model(self) -> Path:
        """The .caffemodel file."""
        return self.path / MODEL


def checkpoint_in(path: Path) -> LocalCheckpoint:
    """Verify a checkpoint's folder on this machine. Raises NotFound or CheckpointRefused."""
    path = path.absolute()
    folder = CheckpointFolder(path.parent, own=False)
    manifest = folder.manifest(path.name)
    folder.load(
        path.name,
        job_fingerprint=manifest.job_fingerprint,
        layout_fingerprint=manifest.weight_layout().fingerprint,
    )
    return LocalCheckpoint(manifest, path)


async def pulled(
    store: EtcdStore,
    spec: JobSpec,
    wanted: str,
    folder: Path,
    on_bytes: OnBytes = silent,
    ignored: Note = discard_note,
) -> LocalCheckpoint:
    """Fetch a checkpoint from its holders into ``folder``; a copy that is there already is only verified.

    ``wanted``: the beginning of its name; "": the newest that is whole. Raises NotFound or CheckpointRefused.
    """
    kept = CheckpointFolder(folder, own=False)
    transport = GrpcTransport(store.sockets, security=store.security)
    try:
        manifest = await fetch(store, transport, spec, wanted, kept, random.Random(), on_bytes, ignored)
    finally:
        await transport.close()
    return LocalCheckpoint(manifest, kept.path(manifest.checkpoint))


class Checkpoint:
    """An announced checkpoint: an average of the peers' weights, verified whenever it is fetched."""

    def __init__(self, store: EtcdStore, spec: JobSpec, entry: Announcement, ignored: Note) -> None:
        self._store = store
        self._spec = spec
        self._ignored = ignored
        self.entry = entry

    @property
    def name(self) -> str:
        """Its name, which begins with its progress in samples."""
        return self.entry.checkpoint

    @property
    def job(self) -> str:
        """The name of its job."""
        return self._spec.name

    @property
    def iteration(self) -> int:
        """The job's progress when it was made, in iterations."""
        return self._spec.iteration_at(self.entry.progress_samples)

    @property
    def progress_samples(self) -> int:
        """The job's progress when it was made, in samples."""
        return self.entry.progress_samples

    @property
    def made_at(self) -> float:
        """The time at which it was made, in seconds since 1970."""
        return self.entry.made_at

    @property
    def holders(self) -> dict[str, str]:
        """The peers that hold it: peer → address."""
        return dict(self.entry.holders)

    async def pull(self, folder: str | Path = "checkpoints", on_bytes: OnBytes = silent) -> Path:
        """Fetch it into a folder of its name within ``folder``. Returns that folder.

        A whole copy that is there already is not fetched again. Raises CheckpointRefused when no holder has it whole,
        NotFound when it is no longer announced.
        """
        return (await self._pulled(Path(folder), on_bytes)).path

    async def export(self, prefix: str | Path) -> list[Path]:
        """Write PREFIX.caffemodel and PREFIX.solverstate, from which plain Caffe continues. Returns the written files.

        A checkpoint without momentum has no .solverstate. Raises NotFound for a folder that does not exist.
        """
        prefix = Path(prefix)
        if not prefix.parent.is_dir():
            raise NotFound(f"there is no folder {prefix.parent}", remedy="create it, or give another --to")
        with tempfile.TemporaryDirectory(prefix="gossip-caffe-", dir=prefix.parent) as scratch:
            local = await self._pulled(Path(scratch), silent)
            return await asyncio.to_thread(write, local.path, prefix)

    async def weights(self) -> dict[tuple[str, int], NDArray[np.float32]]:
        """Return its weights: (layer, number of the blob) → flat values, float32."""
        with tempfile.TemporaryDirectory(prefix="gossip-caffe-") as scratch:
            local = await self._pulled(Path(scratch), silent)
            return blobs_in(await asyncio.to_thread(local.model.read_bytes))

    async def load_into(self, net: CaffeNet) -> tuple[str, ...]:
        """Copy its weights into a ``caffe.Net``, by layer name. Returns the names of the loaded layers.

        Raises ModelError, before anything is copied, when a blob of the net has another size.
        """
        return load_blobs(await self.weights(), net)

    async def _pulled(self, folder: Path, on_bytes: OnBytes) -> LocalCheckpoint:
        return await pulled(self._store, self._spec, self.name, folder, on_bytes, self._ignored)

    def row(self) -> tuple[str, ...]:
        """Return its row of a table below HEADINGS."""
        return (
            self.name,
            f"{self.iteration:,}",
            f"{self.progress_samples:,}",
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.made_at)),
            ", ".join(f"{peer} ({address})" for peer, address in sorted(self.holders.items())),
        )

    def to_record(self) -> dict[str, Any]:
        """Return its description as a JSON object."""
        return {
            "checkpoint": self.name,
            "job": self._spec.name,
            "iteration": self.iteration,
            "progress_samples": self.progress_samples,
            "made_at": self.made_at,
            "digest": self.entry.digest,
            "holders": self.entry.holders,
        }

    def __repr__(self) -> str:
        return f"Checkpoint({self.name!r}, iteration={self.iteration})"

    def _repr_html_(self) -> str:
        return table(HEADINGS, [self.row()])


class Checkpoints(tuple[Checkpoint, ...]):
    """The announced checkpoints of a job, the newest first. ``job``: the job's name."""

    job: str = ""

    def latest(self) -> Checkpoint:
        """Return the newest. Raises NotFound when there is none yet."""
        if not self:
            raise NotFound("the job has no checkpoint yet", remedy="try again when its peers train")
        return self[0]

    def named(self, wanted: str) -> Checkpoint:
        """Return the checkpoint whose name begins with ``wanted``. Raises NotFound, which names all checkpoints."""
        entry = chosen([checkpoint.entry for checkpoint in self], wanted, self.job)
        return next(checkpoint for checkpoint in self if checkpoint.entry is entry)

    def _repr_html_(self) -> str:
        return table(HEADINGS, [checkpoint.row() for checkpoint in self])
