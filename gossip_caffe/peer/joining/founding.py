"""The founding of a job: one peer makes the first weights. It needs the files with which the job begins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container
from pathlib import Path

import numpy as np

from gossip_caffe.checkpoint.announce import announce, checkpoint_id
from gossip_caffe.checkpoint.manifest import Manifest
from gossip_caffe.errors import ModelError
from gossip_caffe.job.prototxts.own_data import passes_before
from gossip_caffe.job.prototxts.starting import start_file_problem
from gossip_caffe.observe.log.events import Event
from gossip_caffe.peer.checkpoints.announcing import listed_of
from gossip_caffe.peer.checkpoints.retaining import newest_own
from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.peer.registration.incarnation import Incarnation
from gossip_caffe.peer.work.trainer import Trainer

WAIT_FOR_HOLDERS_S = 30.0
"""Seconds to look for a holder of the job's checkpoints, or for a peer that trains, before giving up."""
OWN_COPY_AFTER_S = 15.0
"""Seconds to look for a holder before this peer announces a copy on its own disk that is not announced."""


class Founding:
    """The founding of a job by one peer. ``right`` asks for the right to found: None when another peer has it."""

    def __init__(
        self,
        world: PeerDependencies,
        trainer: Trainer,
        incarnation: Incarnation,
        right: Callable[[], Awaitable[int | None]],
    ) -> None:
        self._world = world
        self._trainer = trainer
        self._incarnation = incarnation
        self._peer = incarnation.registration.record.peer
        self._address = incarnation.registration.record.address
        self._right = right
        self._lacks: str | None = None

    async def may_found(self, looked_for_s: float) -> bool:
        """Whether the files with which the job begins are on this machine.

        Raises ModelError when they are not, and no other peer has founded the job for WAIT_FOR_HOLDERS_S.
        """
        if self._lacks is None:
            self._lacks = await asyncio.to_thread(start_file_problem, self._trainer.begins_with)
            if self._lacks:
                self._world.warn(f"{self._peer}: {self._lacks}; another peer has to found the job")
        if self._lacks and looked_for_s > WAIT_FOR_HOLDERS_S:
            raise ModelError(
                f"{self._lacks}, and no other peer has founded the job",
                remedy="bring the file to this machine, or start a peer where it is",
            )
        return not self._lacks

    async def found(self) -> str | None:
        """Make the job's first weights, unless another peer does. They count once their checkpoint is announced.

        Returns a line that says how the solver began; None when this peer has not founded the job.
        """
        if await self._right() is None:
            return None
        if await listed_of(self._world):
            return None  # another peer has founded the job a moment ago
        if (mine := await asyncio.to_thread(newest_own, self._world)) is not None:
            # The job was founded, and another process removed its announcements: the job goes on from this copy.
            await self._announce(mine, "no checkpoint of the job was announced")
            return None
        self._trainer.passes = passes_before(self._world.spec, 0)
        await self._trainer.start(None)
        weights = np.empty(self._trainer.layout.size, dtype=np.float32)
        self._trainer.board.snapshot(weights)
        manifest = Manifest(
            checkpoint=checkpoint_id(0, self._peer),
            job=self._world.spec.name,
            job_fingerprint=self._world.spec.fingerprint,
            layout=self._trainer.layout.entries,
            progress_samples=0,
            folded=0,
            done=(),
            maker=self._peer,
            contributors=(self._peer,),
            made_at=self._world.clock.wall(),
            job_identity=self._world.spec.identity,
            structure=self._trainer.layout.structure,
        )
        manifest = await asyncio.to_thread(self._world.folder.write, manifest, weights)
        await announce(
            self._incarnation.writer,
            self._world.keys,
            manifest,
            self._address,
        )
        self._world.log.emit(
            Event.FOUNDED,
            checkpoint=manifest.checkpoint,
            digest=manifest.digest,
            layout=self._trainer.layout.fingerprint,
        )
        names = ", ".join(Path(file.path).name for file in self._trainer.begins_with.files)
        return f"founded the job with {names or 'fresh weights'}"

    async def announce_own(self, announced: Container[str]) -> None:
        """Announce the newest whole copy on this peer's disk, if any: no holder has a checkpoint of ``announced``."""
        mine = await asyncio.to_thread(newest_own, self._world)
        if mine is None or mine.checkpoint in announced or await self._right() is None:
            return
        await self._announce(mine, "no holder has a checkpoint that was announced")

    async def _announce(self, mine: Manifest, because: str) -> None:
        writer, keys = self._incarnation.writer, self._world.keys
        await announce(writer, keys, mine, self._address, holder=self._peer)
        why = f"{because}, and this one is on this peer's disk"
        self._world.ignored.put_right(keys.checkpoint(mine.checkpoint), writer.revision, why)
