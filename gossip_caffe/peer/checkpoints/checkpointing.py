"""One peer's part in checkpoints: it makes them while it holds the duty, copies others, and notices the job's end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from gossip_caffe.checkpoint.announce import (
    announce,
    checkpoint_id,
)
from gossip_caffe.checkpoint.duty import CHECKPOINTS, HeldDuty, due, give_up, take
from gossip_caffe.checkpoint.ending import JobEnd, read_end, write_end
from gossip_caffe.checkpoint.manifest import Manifest, ranges_of
from gossip_caffe.checkpoint.solverstate import state_writer
from gossip_caffe.errors import CheckpointRefused, EnvironmentProblem, ExchangeFailed, NotFound, StoreError
from gossip_caffe.gossip.averaging.bound import limit_of
from gossip_caffe.gossip.codecs.message import Message
from gossip_caffe.gossip.consensus import Consensus, consensus
from gossip_caffe.job.prototxts.snapshots import snapshots_of
from gossip_caffe.membership.etcd.store import CreatedAt, Guard
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.observe.log.events import Event
from gossip_caffe.peer.checkpoints.announcing import listed_of
from gossip_caffe.peer.checkpoints.back_off import DiskBackOff
from gossip_caffe.peer.checkpoints.copying import Copying
from gossip_caffe.peer.checkpoints.retaining import CheckpointRetention
from gossip_caffe.peer.core.complaints import Complaints
from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.peer.registration.incarnation import Incarnation
from gossip_caffe.peer.work.progress import Progress, checkpoint_interval, look_after_s
from gossip_caffe.peer.work.trainer import Trainer
from gossip_caffe.shards.epochs import ChunkId
from gossip_caffe.solver.board import SnapshotInfo

ALONE_EVERY_S = 2.0
ALONE_SHARE = 0.05
"""The largest share of its time that a lone peer spends on checkpoints: a large net's are made less often."""
NOBODYS = HeldDuty(ours=False, holder="", revision=0)


class CheckpointingPeer(Protocol):
    """The parts of a peer that ``Checkpointing`` needs. ``incarnation`` changes when the peer registers again."""

    world: PeerDependencies
    trainer: Trainer
    incarnation: Incarnation
    progress: Progress
    complaints: Complaints
    peer: str

    @property
    def address(self) -> str:
        """The address at which other peers reach this one."""
        ...

    @property
    def training_peers(self) -> Mapping[str, PeerRecord]:
        """The peers that train now, with this one: peer → record."""
        ...

    def partners(self) -> Mapping[str, str]:
        """The peers that can be asked for their weights: peer → address."""
        ...

    def durable(self, batches: int, via: str) -> None:
        """Note that the first ``batches`` batches of this peer are shared, by the exchange or checkpoint ``via``."""
        ...


async def collect(member: CheckpointingPeer) -> tuple[SnapshotInfo, Consensus]:
    """This peer's snapshot of now, and the consensus of it and of the partners' snapshots.

    A peer whose weights are too far from the others is left out, also this one, and named. Raises ExchangeFailed when
    this peer's snapshot is not finite.
    """
    world, trainer = member.world, member.trainer
    trainer.board.request_publication()
    request = Message("", member.peer, world.spec.name, trainer.layout.fingerprint)
    half_limit = world.spec.settings.half_limit
    snapshot, agreed = await consensus(
        request,
        trainer.layout.size,
        trainer.board.snapshot,
        member.partners(),
        world.transport,
        world.rng,
        most=world.spec.settings.checkpoint_peers,
        offload=world.offload,
        half_limit=limit_of(half_limit, warm=member.progress.is_warm),
        contact=world.contact,
    )
    if agreed.left_out:
        note_left_out(world, member.peer, agreed, member.complaints)
    return snapshot, agreed


def note_left_out(world: PeerDependencies, peer: str, agreed: Consensus, complaints: Complaints) -> None:
    """Log and name the peers that are left out of a consensus because their weights are too far from the others."""
    world.log.emit(Event.LEFT_OUT, peers=dict(agreed.left_out))
    for other, far in agreed.left_out.items():
        line = f"{peer}: the consensus is without NAME, whose weights are {far:.3g} of its length away"
        complaints.about(other, line)


class Checkpointing:
    """The checkpoints of one peer.

    ``job_finished`` is set once the whole budget is trained and its last checkpoint is announced. ``newest``: the id
    of the newest checkpoint, "" before the first; ``newest_samples``: the job's progress at it; ``made_at``: the wall
    time (s) at its maker, None before the first. ``every_samples``: the planned progress between two checkpoints.
    ``duty``: the holder of the duty to make checkpoints, as last seen.
    """

    def __init__(self, member: CheckpointingPeer) -> None:
        self.job_finished = asyncio.Event()
        self.newest = ""
        self.paused = False
        """Whether this peer makes no checkpoints now, because its own weights are wrong."""
        self.duty = NOBODYS
        self._member = member
        self._world = member.world
        self.newest_samples = 0
        self.made_at: float | None = None
        self.every_samples = checkpoint_interval(self._world.spec.settings, self._world.spec.budget_samples)
        self._snapshots = snapshots_of(self._world.spec)
        self._made_at = self._world.clock.monotonic()
        self._took_s = 0.0
        self._retention = CheckpointRetention(self._world, member.peer)
        self._back_off = DiskBackOff(self._world.clock)
        self._copying = Copying(member, self._retention, self._back_off)
        self._said = ""
        self._snapshots_made = 0
        """The snapshots that the supervisor asked for and that were made."""

    async def run(self) -> None:
        """Make and copy the checkpoints that are due, for ever.

        A store that is away, a full disk, or weights that are not finite delay a checkpoint, and end nothing.
        """
        while True:
            try:
                await self.look()
            except StoreError:
                pass  # the store is away: a checkpoint that is due stays due
            except (EnvironmentProblem, ExchangeFailed) as error:
                self.back_off()
                self._say_once(f"{self._member.peer}: {error}")
            living = 1 if self.duty.ours else len(self._member.training_peers)
            await self._world.clock.sleep(look_after_s(living))

    def back_off(self) -> None:
        """Leave checkpoints to other peers for a while, because one could not be made here."""
        self._back_off.failed()

    async def look(self) -> None:
        """Make or copy the checkpoint that is due, if one is. Raises StoreError, or EnvironmentProblem of the disk."""
        member = self._member
        world = self._world
        end = await read_end(world.store, world.keys, world.spec, world.ignored.note)
        listed = await listed_of(world)
        await self._retention.note_announced(listed)
        if end is not None and end.believed:
            self.newest = end.checkpoint
            self._world.log.emit(Event.FINISHED, checkpoint=self.newest)
            self.job_finished.set()
            return
        if listed:
            self.newest, self.newest_samples = listed[0].checkpoint, listed[0].progress_samples
            self.made_at = listed[0].made_at
        if member.incarnation.writer.writing.stuck:
            return  # a checkpoint could not be announced now, and would be made again and again
        if self.paused or self._back_off.is_pausing(alone=not member.partners()):
            # This peer's disk or weights do not serve now: another peer makes what is due, and the second copy.
            await give_up(member.incarnation.writer, self._world.keys, self.duty)
            self.duty = NOBODYS
            return
        await self._copying.look(listed)
        held = self.duty = await take(
            self._world.store,
            member.incarnation.writer,
            self._world.keys,
            member.peer,
            member.incarnation.session.id,
        )
        if not held.ours:
            return
        guards = (CreatedAt(self._world.keys.duty(CHECKPOINTS), held.revision),)
        await self._retention.announce_again(member.incarnation.writer, member.address, guards)
        finished = member.progress.finished
        snapshots = self._snapshots
        decision = due(
            member.progress.samples,
            self.newest_samples,
            self.every_samples,
            finished=finished,
            alone_unsettled=self._alone_unsettled(),
            snapshot=snapshots.iteration_of(member.progress.samples)
            > snapshots.iteration_of(self.newest_samples),
            asked=self._is_asked,
        )
        if decision.now:
            self._snapshots_made = world.overseer.snapshots_wanted
            made = await self.make(decision.reason, held)
            await self._retention.withdraw_old(member.incarnation.writer, guards)
            if made:
                await self.keep_in_remote_store(made)
            if made and finished:
                await self._finish(made, held, end)
        else:
            await self._retention.note_score(listed, member.incarnation.writer)

    async def keep_in_remote_store(self, made: str) -> None:
        """Copy a checkpoint to the job's store as well. A failure is only said: peers hold the checkpoint anyway."""
        try:
            await self._retention.keep_in_remote_store(made)
        except (EnvironmentProblem, CheckpointRefused, NotFound) as error:
            self._say_once(f"{self._member.peer}: {error}")

    def _say_once(self, line: str) -> None:
        if line != self._said:
            self._said = line
            self._world.warn(line)

    @property
    def _is_asked(self) -> bool:
        """Whether the supervisor waits for a snapshot. A lone peer makes it between two steps (``halting``)."""
        return (
            len(self._member.training_peers) > 1
            and self._world.overseer.snapshots_wanted > self._snapshots_made
        )

    def _alone_unsettled(self) -> bool:
        """Whether there are trained batches that only a checkpoint can settle, because no partner can be reached."""
        stream = self._member.trainer.stream
        if any(not self._world.contact.is_unreached(peer) for peer in self._member.partners()):
            return False
        if not stream.unsettled:
            return False
        pause_s = max(ALONE_EVERY_S, self._took_s / ALONE_SHARE)
        return not stream.untrained or self._world.clock.monotonic() - self._made_at >= pause_s

    async def make(self, reason: str, held: HeldDuty | None = None) -> str:
        """Make, write and announce a checkpoint; returns its id, or "" when another peer has taken over the duty.

        ``held``: the duty under which it is announced; None: a lone peer announces it without one. The ledger is read
        before the weights are collected, so that the weights hold every chunk that is done in it.
        """
        member, began_at = self._member, self._world.clock.monotonic()
        states = await member.incarnation.ledger.states()
        folded = member.incarnation.ledger.folded
        progress = self._world.epochs.samples_of(
            folded, (ChunkId(epoch, chunk) for epoch, state in states.items() for chunk in state.done)
        )
        done = [(epoch, ranges_of(state.done)) for epoch, state in states.items() if state.done]
        # The momentum comes first: of a solver at rest it then belongs to the same iteration as the weights.
        history = await member.trainer.history()
        try:
            snapshot, agreed = await collect(member)
            manifest = Manifest(
                checkpoint=checkpoint_id(progress, f"{member.peer}-{self._world.rng.getrandbits(16):04x}"),
                job=self._world.spec.name,
                job_fingerprint=self._world.spec.fingerprint,
                layout=member.trainer.layout.entries,
                progress_samples=progress,
                folded=folded,
                done=tuple(done),
                maker=member.peer,
                contributors=agreed.contributors,
                made_at=self._world.clock.wall(),
                job_identity=self._world.spec.identity,
                structure=member.trainer.layout.structure,
            )
            state = state_writer(self._world.spec, history, progress)
            manifest = await asyncio.to_thread(self._world.folder.write, manifest, agreed.weights, state)
            self._back_off.succeeded()
        finally:
            if history is not None:
                history.close()
        guards: tuple[Guard, ...] = ()
        if held is not None:
            guards = (CreatedAt(self._world.keys.duty(CHECKPOINTS), held.revision),)
        if not await announce(member.incarnation.writer, self._world.keys, manifest, member.address, guards):
            # It is not announced, so no process will ever ask for it.
            await asyncio.to_thread(self._world.folder.remove, manifest.checkpoint)
            return ""
        self._retention.note_held(manifest.checkpoint)
        self._made_at = self._world.clock.monotonic()
        self._took_s = self._made_at - began_at
        self.newest, self.newest_samples, self.made_at = manifest.checkpoint, progress, manifest.made_at
        self._world.log.emit(
            Event.CHECKPOINTED,
            checkpoint=manifest.checkpoint,
            digest=manifest.digest,
            progress_samples=progress,
            contributors=list(agreed.contributors),
            batches=snapshot.batches,
            seconds=round(self._took_s, 3),
            reason=reason,
        )
        if member.peer in agreed.contributors:
            member.durable(snapshot.batches, manifest.checkpoint)
        return manifest.checkpoint

    async def _finish(self, checkpoint: str, held: HeldDuty, before: JobEnd | None) -> None:
        """Record the job's end: the budget is trained, and the last checkpoint is announced.

        ``before``: a record of the end that another process wrote, and that is not to be believed; None: there is none.
        """
        keys, progress_samples = self._world.keys, self._member.progress.samples
        revision = await write_end(
            self._member.incarnation.writer,
            keys,
            checkpoint,
            progress_samples=progress_samples,
            wall=self._world.clock.wall(),
            guard=CreatedAt(keys.duty(CHECKPOINTS), held.revision),
            before=before,
        )
        if revision and before is not None:
            self._world.ignored.put_right(keys.finished, revision, "the job is finished now")
