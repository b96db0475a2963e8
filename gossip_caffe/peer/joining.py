"""How a peer comes by its first weights: from a checkpoint, from living peers, or, for the very first, fresh.

Weights that nobody shares must never get into the gossip: they would pull everybody back. So a peer exchanges only
after this is done, and only one peer founds a job.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gossip_caffe.checkpoint.announce import Announcement, add_holder, announce, announced, checkpoint_id
from gossip_caffe.checkpoint.manifest import STATE, Manifest
from gossip_caffe.errors import CheckpointRefused, ModelError, NotFound
from gossip_caffe.gossip.collect import mean_of
from gossip_caffe.gossip.message import Message
from gossip_caffe.job.starting import not_as_it_was
from gossip_caffe.membership.members import MembersView
from gossip_caffe.observe.events import Event
from gossip_caffe.peer.incarnation import Incarnation
from gossip_caffe.peer.lifecycle import State
from gossip_caffe.peer.loading import Loaded, load
from gossip_caffe.peer.resuming import candidates, living_peers, take_job_back, take_right
from gossip_caffe.peer.trainer import Trainer
from gossip_caffe.peer.world import World
from gossip_caffe.shards.epochs import by_epoch
from gossip_caffe.stored import needed

LOOK_EVERY_S = 0.2
LATE_PEERS_S = 1.5
WAIT_FOR_HOLDERS_S = 30.0
"""How long to look for a holder of the job's checkpoints, or for a peer that trains, before giving up."""


class JobFinished(Exception):
    """There is nothing to join any more: the checkpoint with which the job ended, as the store names it."""


@dataclass(frozen=True, slots=True)
class Synced:
    """From where the solver has its weights. ``known``: everything that the account calls done is in them.

    It is not where others train, who have learned more meanwhile: a peer has to hear of that before it claims anything.
    """

    source: str
    known: bool


class Joining:
    """One peer's way to the consensus. ``early``: a checkpoint that was loaded while the net was being built."""

    def __init__(
        self,
        world: World,
        trainer: Trainer,
        view: MembersView,
        incarnation: Incarnation,
        early: Loaded | None = None,
    ) -> None:
        self._world = world
        self._trainer = trainer
        self._view = view
        self._incarnation = incarnation
        self._peer = incarnation.registration.record.peer
        self._address = incarnation.registration.record.address
        self._lacks: str | None = None
        self._reasons: list[str] = []
        self._have = early
        self._held = ""

    async def sync(self) -> Synced:
        """Start the solver from the job's weights.

        Where peers train: from a checkpoint, or from the mean of those who train. Where none does any more the job goes
        back to its newest checkpoint. Without any checkpoint it is founded. Raises CheckpointRefused when the job has
        checkpoints, none of them is to be had, and nobody lives who could be asked, and ModelError when the files that
        it begins with are nowhere, and JobFinished when it has ended meanwhile.
        """
        began_at = self._world.clock.monotonic()
        while True:
            looked_for_s = self._world.clock.monotonic() - began_at
            if (end := await self._world.store.get(self._world.keys.finished)) is not None:
                raise JobFinished(
                    needed(end.key, end.value, "checkpoint", str)
                )  # nobody trains, and nothing is to go back
            listed = await announced(self._world.store, self._world.keys)
            self._reasons = []
            if self._view.in_state(State.TRAINING.value):
                synced = await self._join(listed)
            elif listed:
                synced = await self._resume(candidates(listed, looked_for_s).checkpoints)
            elif await self._may_found(looked_for_s):
                synced = await self._found()
            else:
                synced = None
            if synced is not None:
                return synced
            if self._reasons and looked_for_s > WAIT_FOR_HOLDERS_S:
                raise CheckpointRefused(
                    f"no checkpoint of job {self._world.spec.name!r} can be had ({'; '.join(self._reasons)})",
                    remedy="start a peer with the --run-dir of one that held a checkpoint",
                )
            await self._world.clock.sleep(LOOK_EVERY_S)

    async def _join(self, listed: Sequence[Announcement]) -> Synced | None:
        """Others train: begin with whatever is at hand; what they learned since comes with the first exchanges."""
        for announcement in listed:
            if (loaded := await self._loaded(announcement)) is not None:
                manifest, weights = loaded.manifest, loaded.weights
                momentum = self._world.spec.settings.joiner_momentum == "checkpoint"
                await self._trainer.start(weights, self._state_of(manifest) if momentum else "")
                self._note_joined(manifest)
                return Synced(f"from checkpoint {manifest.checkpoint}", known=False)
        return await self._from_living_peers()

    async def _resume(self, checkpoints: Sequence[Announcement]) -> Synced | None:
        """Nobody trains: take the job back to a checkpoint; None when somebody else does, or trains after all."""
        for announcement in checkpoints:
            if (loaded := await self._loaded(announcement)) is not None:
                break
        else:
            return None
        manifest, weights = loaded.manifest, loaded.weights
        if (right := await self._right()) is None:
            return None
        # A peer whose lease ended while the store was away registers again as soon as it is back.
        await self._world.clock.sleep(LATE_PEERS_S)
        if await living_peers(self._world.store, self._world.keys):
            return None
        if await self._world.store.get(self._world.keys.finished) is not None:
            return None  # they have just left, with the job done
        still = await announced(self._world.store, self._world.keys)
        if manifest.checkpoint not in {entry.checkpoint for entry in still}:
            return None  # somebody has gone back further meanwhile
        incarnation = self._incarnation
        done = await take_job_back(
            self._world.store, incarnation.writer, self._world.keys, self._world.epochs, manifest, right
        )
        await incarnation.ledger.refresh()
        # The maker's momentum belongs to these weights, or nearly so: a job of one peer goes on as if nothing had been.
        await self._trainer.start(weights, self._state_of(manifest))
        self._world.log.emit(
            Event.RESUMED,
            checkpoint=manifest.checkpoint,
            progress_samples=manifest.progress_samples,
            folded=done.folded,
            done=by_epoch(done.done),
            freed_samples=done.freed_samples,
            revision=incarnation.writer.revision,
            reason=done.reason,
        )
        self._note_joined(manifest)
        again = f", {done.freed_samples:,} samples are trained again" if done.freed_samples else ""
        return Synced(f"the job goes on from checkpoint {manifest.checkpoint}{again}", known=True)

    def _note_joined(self, manifest: Manifest) -> None:
        self._world.log.emit(
            Event.JOINED,
            checkpoint=manifest.checkpoint,
            progress_samples=manifest.progress_samples,
            layout=self._trainer.layout.fingerprint,
        )

    def _state_of(self, manifest: Manifest) -> str:
        """Path of the .solverstate of a checkpoint here; "" when it has none."""
        path = self._world.folder.path(manifest.checkpoint, STATE)
        return str(path.absolute()) if path.is_file() else ""

    async def _right(self) -> int | None:
        """The right to found the job or to take it back; it is kept until this peer's lease ends."""
        incarnation = self._incarnation
        return await take_right(
            self._world.store, incarnation.writer, self._world.keys, self._peer, incarnation.session.id
        )

    async def _loaded(self, announcement: Announcement) -> Loaded | None:
        """A checkpoint, whole and verified; None when it cannot be had now."""
        incarnation, fingerprint = self._incarnation, self._trainer.layout.fingerprint
        if self._have is None or self._have.manifest.digest != announcement.digest or self._have_of_other_net:
            self._have = None
            try:
                self._have = await load(self._world, self._peer, announcement, fingerprint)
            except (CheckpointRefused, NotFound) as error:
                self._world.log.emit(
                    Event.CHECKPOINT_REFUSED, checkpoint=announcement.checkpoint, reason=error.message
                )
                self._reasons.append(error.message)
                return None
        elif self._held == announcement.checkpoint:
            return self._have
        self._held = announcement.checkpoint
        await asyncio.to_thread(self._world.folder.flush, announcement.checkpoint)
        await add_holder(
            self._world.store,
            incarnation.writer,
            self._world.keys,
            announcement.checkpoint,
            self._peer,
            self._address,
            self._view.members,
        )
        return self._have

    @property
    def _have_of_other_net(self) -> bool:
        """What was loaded before the net stood may be of another one."""
        mine = self._trainer.layout.fingerprint
        return self._have is not None and self._have.manifest.weight_layout().fingerprint != mine

    async def _from_living_peers(self) -> Synced | None:
        """When no checkpoint can be had: the mean of those who train."""
        training = {
            peer: record.address for peer, record in self._view.in_state(State.TRAINING.value).items()
        }
        if not training:
            return None
        request = Message("", self._peer, self._world.spec.name, self._trainer.layout.fingerprint)
        agreed = await mean_of(
            request,
            self._trainer.layout.size,
            training,
            self._world.transport,
            self._world.rng,
            most=self._world.spec.settings.checkpoint_peers,
            offload=self._world.offload,
        )
        if agreed is None:
            return None
        await self._trainer.start(agreed.weights)
        self._world.log.emit(
            Event.JOINED,
            checkpoint="",
            progress_samples=0,
            contributors=list(agreed.contributors),
            layout=self._trainer.layout.fingerprint,
        )
        return Synced(f"from the mean of {', '.join(agreed.contributors)}", known=False)

    async def _may_found(self, looked_for_s: float) -> bool:
        """Whether the files that the job starts from are here. Raises ModelError when nobody had them for long."""
        if self._lacks is None:
            self._lacks = await asyncio.to_thread(not_as_it_was, self._trainer.begins_with)
            if self._lacks:
                self._world.say(f"{self._peer}: {self._lacks}; another peer has to found the job")
        if self._lacks and looked_for_s > WAIT_FOR_HOLDERS_S:
            raise ModelError(
                f"{self._lacks}, and no other peer has founded the job",
                remedy="bring the file to this machine, or start a peer where it is",
            )
        return not self._lacks

    async def _found(self) -> Synced | None:
        """Make the job's first weights, unless another peer does; they count once their checkpoint is announced."""
        if await self._right() is None:
            return None
        if await announced(self._world.store, self._world.keys):
            return None  # it was founded a moment ago
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
        )
        manifest = await asyncio.to_thread(self._world.folder.write, manifest, weights)
        await announce(self._incarnation.writer, self._world.keys, manifest, self._address)
        self._world.log.emit(
            Event.FOUNDED,
            checkpoint=manifest.checkpoint,
            digest=manifest.digest,
            layout=self._trainer.layout.fingerprint,
        )
        names = ", ".join(Path(file.path).name for file in self._trainer.begins_with.files)
        return Synced(f"founded the job with {names or 'fresh weights'}", known=True)
