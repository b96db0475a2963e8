"""The first weights of a peer: from a checkpoint, from living peers, or, for the first peer of a job, fresh ones.

Fresh weights must never get into the exchanges: their halves would pull all peers back. So a peer exchanges only after
it has loaded the job's weights, and only one peer founds a job.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from gossip_caffe.checkpoint.announce import Announcement, add_holder
from gossip_caffe.checkpoint.ending import JobEnd, read_end
from gossip_caffe.checkpoint.manifest import STATE, Manifest
from gossip_caffe.checkpoint.pull import NoHolder
from gossip_caffe.errors import CheckpointRefused, NotFound
from gossip_caffe.job.prototxts.own_data import passes_before
from gossip_caffe.membership.members import MembersView
from gossip_caffe.observe.log.events import Event
from gossip_caffe.peer.checkpoints.announcing import listed_of
from gossip_caffe.peer.core.complaints import Complaints
from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.peer.core.lifecycle import State
from gossip_caffe.peer.joining.founding import OWN_COPY_AFTER_S, WAIT_FOR_HOLDERS_S, Founding
from gossip_caffe.peer.joining.living_mean import mean_of_living
from gossip_caffe.peer.joining.loading import Loaded, load
from gossip_caffe.peer.joining.resuming import candidates, living_peers, take_job_back, take_right
from gossip_caffe.peer.registration.incarnation import Incarnation
from gossip_caffe.peer.work.trainer import Trainer
from gossip_caffe.shards.epochs import by_epoch

LOOK_EVERY_S = 0.2
LATE_PEERS_S = 1.5
SAY_WAITS_AFTER_S = 8.0


class JobFinished(Exception):
    """The job has ended meanwhile, so there is nothing to join. The message is the id of its last checkpoint."""


@dataclass(frozen=True, slots=True)
class Synced:
    """The weights with which the solver has begun; ``source`` names them in words.

    ``known``: the weights hold everything that the ledger calls done. They do not where other peers train, which have
    learned more meanwhile: this peer has to exchange with them before it claims a chunk. ``founded``: this peer has
    made the job's first weights.
    """

    source: str
    known: bool
    founded: bool = False


class Joining:
    """The joining of one peer. ``early``: a checkpoint that was loaded while the net was being built."""

    def __init__(
        self,
        world: PeerDependencies,
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
        self._reasons: dict[str, None] = {}
        """The reasons for which no checkpoint could be loaded in the newest round, each of them once."""
        self._loaded = early
        self._founding = Founding(world, trainer, incarnation, self._take_right)
        self._announced_as = ""

    async def sync(self) -> Synced:
        """Start the solver from the job's weights.

        While peers train, these are a checkpoint, or the mean of those peers. When no peer trains, the job goes back
        to its newest checkpoint. A job without a checkpoint is founded.

        Raises CheckpointRefused when the job has checkpoints, none of them can be loaded, and no peer trains;
        ModelError when no machine has the files with which the job begins; JobFinished when the job has ended.
        """
        began_at = self._world.clock.monotonic()
        while True:
            looked_for_s = self._world.clock.monotonic() - began_at
            if (end := await self._ended()) is not None:
                raise JobFinished(end.checkpoint)
            listed = await listed_of(self._world)
            self._reasons = {}
            if self._view.in_state(State.TRAINING.value):
                synced = await self._join(listed)
            elif listed:
                synced = await self._resume(candidates(listed, looked_for_s).checkpoints)
                if synced is None and self._reasons and looked_for_s > OWN_COPY_AFTER_S:
                    await self._founding.announce_own({entry.checkpoint for entry in listed})
            elif await self._founding.may_found(looked_for_s):
                source = await self._founding.found()
                synced = None if source is None else Synced(source, known=True, founded=True)
            else:
                synced = None
            if synced is not None:
                return synced
            if self._reasons and looked_for_s > WAIT_FOR_HOLDERS_S:
                raise self._no_checkpoint_error()
            if self._reasons and looked_for_s > SAY_WAITS_AFTER_S and not self._world.contact.lines:
                self._world.say_once(f"{self._peer}: waits for weights: {'; '.join(self._reasons)}")
            await self._world.clock.sleep(LOOK_EVERY_S)

    def _no_checkpoint_error(self) -> CheckpointRefused:
        """The error with each cause once: the living peers that cannot be reached, or else the holders' reasons."""
        lacking = f"no checkpoint of job {self._world.spec.name!r} can be had"
        if lines := [line.partition("; ") for line in self._world.contact.lines]:
            causes = "; ".join(line[0] for line in lines)
            return CheckpointRefused(f"{lacking}: {self._peer} {causes}", remedy=lines[0][2])
        return CheckpointRefused(
            f"{lacking} ({'; '.join(self._reasons)})",
            remedy="start a peer with the --run-dir of one that held a checkpoint",
        )

    async def _ended(self) -> JobEnd | None:
        """The end of the job as the store records it; None while there is none, or none that is to be believed."""
        world = self._world
        end = await read_end(world.store, world.keys, world.spec, world.ignored.note)
        return end if end is not None and end.believed else None

    async def _join(self, listed: Sequence[Announcement]) -> Synced | None:
        """Begin with any checkpoint, or with the mean: other peers train, and exchanges bring what is newer."""
        for announcement in listed:
            if (loaded := await self._load(announcement)) is not None:
                manifest, weights = loaded.manifest, loaded.weights
                momentum = self._world.spec.settings.joiner_momentum == "checkpoint"
                await self._set_passes()
                await self._trainer.start(weights, self._state_of(manifest) if momentum else "")
                self._note_joined(manifest)
                return Synced(f"from checkpoint {manifest.checkpoint}", known=False)
        return await self._from_living_peers()

    async def _resume(self, checkpoints: Sequence[Announcement]) -> Synced | None:
        """Take the job back to a checkpoint, because no peer trains.

        Returns None when another peer does this, or trains after all, or when no checkpoint can be loaded.
        """
        for announcement in checkpoints:
            if (loaded := await self._load(announcement)) is not None:
                break
        else:
            return None
        manifest, weights = loaded.manifest, loaded.weights
        if (right := await self._take_right()) is None:
            return None
        # A peer whose lease ended during an outage of the store registers again as soon as the store is back.
        await self._world.clock.sleep(LATE_PEERS_S)
        if await living_peers(self._world.store, self._world.keys):
            return None
        if await self._ended() is not None:
            return None  # the peers have just left, because the job is finished
        still = await listed_of(self._world)
        if manifest.checkpoint not in {entry.checkpoint for entry in still}:
            return None  # the job has gone back to an older checkpoint meanwhile
        incarnation = self._incarnation
        done = await take_job_back(
            self._world.store,
            incarnation.writer,
            self._world.keys,
            self._world.epochs,
            manifest,
            right,
            self._peer,
        )
        await incarnation.ledger.refresh()
        self._trainer.passes = passes_before(self._world.spec, manifest.progress_samples)
        # The momentum of the maker belongs to these weights, or nearly so: a job of one peer goes on without a jump.
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

    async def _set_passes(self) -> None:
        """Tell the trainer how many passes its rank has made: peers before this one may have had the rank.

        Only a net that makes its own data has ranks. Raises StoreError.
        """
        if self._world.spec.ranks:
            done = await self._incarnation.ledger.done_samples()
            self._trainer.passes = passes_before(self._world.spec, done)

    def _note_joined(self, manifest: Manifest) -> None:
        self._world.log.emit(
            Event.JOINED,
            checkpoint=manifest.checkpoint,
            progress_samples=manifest.progress_samples,
            layout=self._trainer.layout.fingerprint,
        )

    def _state_of(self, manifest: Manifest) -> str:
        """The path of a local checkpoint's .solverstate; "" when it has none."""
        path = self._world.folder.path(manifest.checkpoint, STATE)
        return str(path.absolute()) if path.is_file() else ""

    async def _take_right(self) -> int | None:
        """The revision of the right to found the job or to take it back; None while another peer has the right.

        This peer has the right until its lease ends.
        """
        incarnation = self._incarnation
        return await take_right(
            self._world.store, incarnation.writer, self._world.keys, self._peer, incarnation.session.id
        )

    async def _load(self, announcement: Announcement) -> Loaded | None:
        """Load a checkpoint, whole and verified, and announce this peer as its holder; None when that fails now."""
        incarnation, fingerprint = self._incarnation, self._trainer.layout.fingerprint
        if (
            self._loaded is None
            or self._loaded.manifest.digest != announcement.digest
            or self._is_of_other_net
        ):
            self._loaded = None
            try:
                self._loaded = await load(self._world, self._peer, announcement, fingerprint)
            except (CheckpointRefused, NotFound) as error:
                self._world.log.emit(
                    Event.CHECKPOINT_REFUSED, checkpoint=announcement.checkpoint, reason=error.message
                )
                reasons = error.reasons if isinstance(error, NoHolder) else (error.message,)
                self._reasons.update(dict.fromkeys(reasons))
                return None
        elif self._announced_as == announcement.checkpoint:
            return self._loaded
        self._announced_as = announcement.checkpoint
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
        return self._loaded

    @property
    def _is_of_other_net(self) -> bool:
        """Whether the checkpoint that was loaded before the net was built belongs to another net."""
        mine = self._trainer.layout.fingerprint
        return self._loaded is not None and self._loaded.manifest.weight_layout().fingerprint != mine

    async def _from_living_peers(self) -> Synced | None:
        """Begin with the mean of the peers that train, because no checkpoint can be loaded; None when none answers."""
        training = {
            peer: record.address for peer, record in self._view.in_state(State.TRAINING.value).items()
        }
        if not training:
            return None
        world = self._world
        complaints = Complaints(world.say, world.clock)
        agreed = await mean_of_living(
            world, self._peer, self._trainer.layout, training, complaints, world.contact
        )
        if agreed is None:
            return None
        await self._set_passes()
        await self._trainer.start(agreed.weights)
        self._world.log.emit(
            Event.JOINED,
            checkpoint="",
            progress_samples=0,
            contributors=list(agreed.contributors),
            layout=self._trainer.layout.fingerprint,
        )
        return Synced(f"from the mean of {', '.join(agreed.contributors)}", known=False)
