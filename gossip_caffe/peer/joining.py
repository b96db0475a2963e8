"""How a peer comes by its first weights: from a checkpoint, from living peers, or, for the very first, fresh.

Weights that nobody shares must never get into the gossip: they would pull everybody back. So a peer exchanges only
after this is done, and only one peer founds a job.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from gossip_caffe.checkpoint.announce import Announcement, add_holder, announce, announced, checkpoint_id
from gossip_caffe.checkpoint.manifest import Manifest
from gossip_caffe.checkpoint.pull import pull
from gossip_caffe.errors import CheckpointRefused, ModelError, NotFound
from gossip_caffe.gossip.collect import mean_of
from gossip_caffe.gossip.message import Message
from gossip_caffe.job.starting import not_as_it_was
from gossip_caffe.membership.members import MembersView
from gossip_caffe.membership.store import Absent, Put
from gossip_caffe.observe.events import Event
from gossip_caffe.peer.incarnation import Incarnation
from gossip_caffe.peer.lifecycle import State
from gossip_caffe.peer.trainer import Trainer
from gossip_caffe.peer.world import World

LOOK_EVERY_S = 0.2
WAIT_FOR_HOLDERS_S = 30.0
"""How long to look for a holder of the job's checkpoints, or for a peer that trains, before giving up."""


class Joining:
    """One peer's way to the consensus."""

    def __init__(self, world: World, trainer: Trainer, view: MembersView, incarnation: Incarnation) -> None:
        self._world = world
        self._trainer = trainer
        self._view = view
        self._incarnation = incarnation
        self._peer = incarnation.registration.record.peer
        self._address = incarnation.registration.record.address
        self._lacks: str | None = None

    async def sync(self) -> str:
        """Start the solver from the job's weights; returns in words from where.

        Raises CheckpointRefused when the job has checkpoints, none of them is to be had, and nobody lives who could
        be asked, and ModelError when the files that it begins with are nowhere.
        """
        give_up_at = self._world.clock.monotonic() + WAIT_FOR_HOLDERS_S
        while True:
            listed = await announced(self._world.store, self._world.keys)
            reasons: list[str] = []
            for announcement in listed:
                try:
                    return await self._from_checkpoint(announcement)
                except (CheckpointRefused, NotFound) as error:
                    reasons.append(error.message)
            if (source := await self._from_living_peers()) is not None:
                return source
            if listed and self._world.clock.monotonic() > give_up_at:
                raise CheckpointRefused(
                    f"no checkpoint of job {self._world.spec.name!r} can be had ({'; '.join(reasons)})",
                    remedy="start a peer with the --run-dir of one that held a checkpoint",
                )
            if (
                not listed
                and await self._may_found(give_up_at)
                and (source := await self._found()) is not None
            ):
                return source
            await self._world.clock.sleep(LOOK_EVERY_S)

    async def _from_checkpoint(self, announcement: Announcement) -> str:
        folder, checkpoint = self._world.folder, announcement.checkpoint
        here = checkpoint in folder.ids() and folder.manifest(checkpoint).digest == announcement.digest
        if not here and not folder.adopt(checkpoint, announcement.digest):
            self._world.say(f"{self._peer}: pulling checkpoint {checkpoint}")
            await pull(
                announcement,
                job=self._world.spec.name,
                client=self._world.files,
                folder=folder,
                rng=self._world.rng,
            )
        manifest, weights = await asyncio.to_thread(
            folder.load,
            checkpoint,
            job_fingerprint=self._world.spec.fingerprint,
            layout_fingerprint=self._trainer.layout.fingerprint,
        )
        await self._trainer.start(weights)
        await add_holder(
            self._world.store,
            self._incarnation.writer,
            self._world.keys,
            checkpoint,
            self._peer,
            self._address,
        )
        self._world.log.emit(Event.JOINED, checkpoint=checkpoint, progress_samples=manifest.progress_samples)
        return f"from checkpoint {checkpoint}"

    async def _from_living_peers(self) -> str | None:
        """When no checkpoint can be had: the mean of those who train."""
        training = {
            peer: record.address for peer, record in self._view.in_state(State.TRAINING.value).items()
        }
        if not training:
            return None
        request = Message("", self._peer, self._world.spec.name, self._trainer.layout.fingerprint)
        agreed = await mean_of(
            request, self._trainer.layout.size, training, self._world.transport, self._world.rng
        )
        if agreed is None:
            return None
        await self._trainer.start(agreed.weights)
        self._world.log.emit(
            Event.JOINED, checkpoint="", progress_samples=0, contributors=list(agreed.contributors)
        )
        return f"from the mean of {', '.join(agreed.contributors)}"

    async def _may_found(self, give_up_at: float) -> bool:
        """Whether the files that the job starts from are here. Raises ModelError when nobody had them for long."""
        if self._lacks is None:
            self._lacks = await asyncio.to_thread(not_as_it_was, self._trainer.begins_with)
            if self._lacks:
                self._world.say(f"{self._peer}: {self._lacks}; another peer has to found the job")
        if self._lacks and self._world.clock.monotonic() > give_up_at:
            raise ModelError(
                f"{self._lacks}, and no other peer has founded the job",
                remedy="bring the file to this machine, or start a peer where it is",
            )
        return not self._lacks

    async def _found(self) -> str | None:
        """Make the job's first weights, unless another peer does; they count once their checkpoint is announced."""
        founder = Put(self._world.keys.founder, self._peer.encode(), self._incarnation.session.id)
        if not (
            await self._incarnation.writer.transact([Absent(self._world.keys.founder)], [founder])
        ).succeeded:
            return None
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
        )
        manifest = await asyncio.to_thread(self._world.folder.write, manifest, weights)
        await announce(self._incarnation.writer, self._world.keys, manifest, self._address)
        self._world.log.emit(Event.FOUNDED, checkpoint=manifest.checkpoint)
        names = ", ".join(Path(file.path).name for file in self._trainer.begins_with.files)
        return f"founded the job with {names or 'fresh weights'}"
