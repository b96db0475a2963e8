"""This peer's part in checkpoints: makes them while it holds the duty, copies others', and sees the job's end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import BinaryIO, Protocol

from gossip_caffe.checkpoint.announce import (
    Announcement,
    add_holder,
    announce,
    announced,
    checkpoint_id,
)
from gossip_caffe.checkpoint.duty import CHECKPOINTS, Held, due, give_up, take
from gossip_caffe.checkpoint.manifest import MODEL, Manifest, ranges_of
from gossip_caffe.checkpoint.pull import pull
from gossip_caffe.checkpoint.solverstate import current_step, write_solverstate
from gossip_caffe.errors import CheckpointRefused, EnvironmentProblem, ExchangeFailed, NotFound, StoreError
from gossip_caffe.gossip.collect import Consensus, consensus
from gossip_caffe.gossip.message import Message
from gossip_caffe.job.snapshots import snapshots_of
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.membership.store import Absent, CreatedAt, Guard, Put
from gossip_caffe.observe.events import Event
from gossip_caffe.peer.incarnation import Incarnation
from gossip_caffe.peer.keeping import Keeping
from gossip_caffe.peer.pace import checkpoint_interval
from gossip_caffe.peer.patience import Rest, Turns
from gossip_caffe.peer.progress import Progress, look_after_s
from gossip_caffe.peer.trainer import Trainer
from gossip_caffe.peer.world import World
from gossip_caffe.shards.epochs import ChunkId
from gossip_caffe.solver.board import SnapshotInfo
from gossip_caffe.solver.history import SolverHistory
from gossip_caffe.stored import needed

ALONE_EVERY_S = 2.0
ALONE_SHARE = 0.05
"""A lone peer's checkpoints take at most this share of its time: those of a large net are made less often."""
COPIES = 2
NOBODYS = Held(ours=False, holder="", revision=0)


class Member(Protocol):
    """What checkpoints need of the peer; a new incarnation takes the place of a lost one."""

    world: World
    trainer: Trainer
    incarnation: Incarnation
    progress: Progress
    peer: str

    @property
    def address(self) -> str:
        """Where others reach this peer."""
        ...

    @property
    def training(self) -> Mapping[str, PeerRecord]:
        """All peers that train now."""
        ...

    def partners(self) -> Mapping[str, str]:
        """Who can be asked: peer → address."""
        ...

    def durable(self, batches: int, via: str) -> None:
        """Our first ``batches`` batches have left the peer."""
        ...


async def collect(member: Member) -> tuple[SnapshotInfo, Consensus]:
    """The consensus as of now, and the own snapshot that is in it. Raises ExchangeFailed when that is not finite."""
    world, trainer = member.world, member.trainer
    trainer.board.request_publication()
    request = Message("", member.peer, world.spec.name, trainer.layout.fingerprint)
    return await consensus(
        request,
        trainer.layout.size,
        trainer.board.snapshot,
        member.partners(),
        world.transport,
        world.rng,
        most=world.spec.settings.checkpoint_peers,
        offload=world.offload,
    )


class Checkpointing:
    """``job_finished`` is set once the whole budget is trained and its last checkpoint is announced.

    ``duty``: who makes checkpoints, as last seen.
    """

    def __init__(self, member: Member) -> None:
        self.job_finished = asyncio.Event()
        self.newest = ""
        self.duty = NOBODYS
        self._member = member
        self._world = member.world
        self._newest_samples = 0
        self._every = checkpoint_interval(self._world.spec.settings, self._world.spec.budget_samples)
        self._snapshots = snapshots_of(self._world.spec)
        self._made_at = self._world.clock.monotonic()
        self._took_s = 0.0
        self._copying_failed: set[str] = set()
        self._keeping = Keeping(self._world)
        self._rest = Rest(self._world.clock)
        self._turns = Turns(self._world.clock, 4 * member.trainer.layout.size)
        self._said = ""

    async def run(self) -> None:
        """Look at what is due, for ever.

        The store being away, a disk that is full, or own weights that are not finite, only delay.
        """
        while True:
            try:
                await self.look()
            except StoreError:
                pass  # the store is away: what is due stays due
            except (EnvironmentProblem, ExchangeFailed) as error:
                self.rest()
                self._say_once(f"{self._member.peer}: {error}")
            living = 1 if self.duty.ours else len(self._member.training)
            await self._world.clock.sleep(look_after_s(living))

    def rest(self) -> None:
        """A checkpoint could not be made here: let others make and copy them for a while."""
        self._rest.failed()

    async def look(self) -> None:
        """See what is due, once. Raises StoreError, or EnvironmentProblem when the disk does not take it."""
        member = self._member
        end = await self._world.store.get(self._world.keys.finished)
        if listed := await announced(self._world.store, self._world.keys):
            await self._keeping.seen(listed)
        if end is not None:
            self.newest = needed(end.key, end.value, "checkpoint", str)
            self._world.log.emit(Event.FINISHED, checkpoint=self.newest)
            self.job_finished.set()
            return
        if listed:
            self.newest, self._newest_samples = listed[0].checkpoint, listed[0].progress_samples
        if self._rest.rests(alone=not member.partners()):
            # Its disk took nothing: another makes what is due, and makes the second copy.
            await give_up(member.incarnation.writer, self._world.keys, self.duty)
            self.duty = NOBODYS
            return
        if listed:
            await self._copy(listed[0])
        held = self.duty = await take(
            self._world.store,
            member.incarnation.writer,
            self._world.keys,
            member.peer,
            member.incarnation.session.id,
        )
        if not held.ours:
            return
        finished = member.progress.finished
        snapshots = self._snapshots
        decision = due(
            member.progress.samples,
            self._newest_samples,
            self._every,
            finished=finished,
            alone_unsettled=self._alone_unsettled(),
            snapshot=snapshots.iteration_of(member.progress.samples)
            > snapshots.iteration_of(self._newest_samples),
        )
        if decision.now:
            made = await self.make(decision.reason, held)
            await self._keeping.forget_old(member.incarnation.writer)
            if made:
                await self.keep_elsewhere(made)
            if made and finished:
                await self._finish(made, held)
        else:
            await self._keeping.note_score(listed, member.incarnation.writer)

    async def keep_elsewhere(self, made: str) -> None:
        """In the job's store, too; if that fails, peers hold it all the same."""
        try:
            await self._keeping.keep_elsewhere(made)
        except (EnvironmentProblem, CheckpointRefused, NotFound) as error:
            self._say_once(f"{self._member.peer}: {error}")

    def _say_once(self, line: str) -> None:
        if line != self._said:
            self._said = line
            self._world.say(line)

    def _alone_unsettled(self) -> bool:
        """Nobody to share with, and learning that only a checkpoint can settle."""
        stream = self._member.trainer.stream
        if self._member.partners() or not stream.unsettled:
            return False
        pause_s = max(ALONE_EVERY_S, self._took_s / ALONE_SHARE)
        return not stream.untrained or self._world.clock.monotonic() - self._made_at >= pause_s

    async def make(self, reason: str, held: Held | None = None) -> str:
        """Make, write and announce a checkpoint; returns its id, or "" when somebody else took the duty over.

        What is done is read before the weights are collected, so that the weights hold all of it.
        """
        member, began_at = self._member, self._world.clock.monotonic()
        states = await member.incarnation.ledger.states()
        folded = member.incarnation.ledger.folded
        progress = self._world.epochs.samples_of(
            folded, (ChunkId(epoch, chunk) for epoch, state in states.items() for chunk in state.done)
        )
        done = [(epoch, ranges_of(state.done)) for epoch, state in states.items() if state.done]
        history = await member.trainer.history()  # first: a solver at rest is then at the iteration of both
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
        )
        state = self._state_of(history, progress)
        try:
            manifest = await asyncio.to_thread(self._world.folder.write, manifest, agreed.weights, state)
            self._rest.succeeded()
        finally:
            if history is not None:
                history.close()
        guards: tuple[Guard, ...] = ()
        if held is not None:
            guards = (CreatedAt(self._world.keys.duty(CHECKPOINTS), held.revision),)
        if not await announce(member.incarnation.writer, self._world.keys, manifest, member.address, guards):
            return ""
        self._made_at = self._world.clock.monotonic()
        self._took_s = self._made_at - began_at
        self.newest, self._newest_samples = manifest.checkpoint, progress
        self._world.log.emit(
            Event.CHECKPOINTED,
            checkpoint=manifest.checkpoint,
            digest=manifest.digest,
            progress_samples=progress,
            contributors=list(agreed.contributors),
            batches=snapshot.batches,
            reason=reason,
        )
        member.durable(snapshot.batches, manifest.checkpoint)
        return manifest.checkpoint

    def _state_of(self, history: SolverHistory | None, progress: int) -> Callable[[BinaryIO], None] | None:
        """What writes the .solverstate of a checkpoint after ``progress`` samples."""
        if history is None or not history.blobs:
            return None
        spec, blobs = self._world.spec, tuple(history.blobs)
        iteration = spec.iteration_at(progress)
        step = current_step(spec.schedule, iteration)
        return lambda file: write_solverstate(
            file, iteration=iteration, learned_net=MODEL, history=blobs, step=step
        )

    async def _finish(self, checkpoint: str, held: Held) -> None:
        """The budget is trained and the last checkpoint is there: say so, once."""
        member = self._member
        value = {
            "checkpoint": checkpoint,
            "progress_samples": member.progress.samples,
            "wall": self._world.clock.wall(),
        }
        guards: list[Guard] = [
            Absent(self._world.keys.finished),
            CreatedAt(self._world.keys.duty(CHECKPOINTS), held.revision),
        ]
        await member.incarnation.writer.transact(
            guards, [Put(self._world.keys.finished, json.dumps(value).encode())]
        )

    async def _copy(self, newest: Announcement) -> None:
        """Keep a second copy of the newest checkpoint: of the training peers that have none the lowest id does it.

        When it does not, the next one does.
        """
        member = self._member
        training = member.training
        if sum(holder in training for holder in newest.holders) >= COPIES:
            self._turns.copied()
            return
        others = sorted(training.keys() - newest.holders.keys())
        if not others:
            self._turns.copied()
            return
        if member.peer not in others or newest.checkpoint in self._copying_failed:
            return
        if not self._turns.ours(others.index(member.peer)):
            return
        try:
            await pull(
                newest,
                job=self._world.spec.name,
                client=self._world.files,
                folder=self._world.folder,
                rng=self._world.rng,
                elsewhere=self._world.elsewhere,
            )
            await asyncio.to_thread(self._world.folder.flush, newest.checkpoint)
            self._rest.succeeded()
            await add_holder(
                self._world.store,
                member.incarnation.writer,
                self._world.keys,
                newest.checkpoint,
                member.peer,
                member.address,
                member.training,
            )
        except CheckpointRefused as error:
            self._world.log.emit(Event.CHECKPOINT_REFUSED, checkpoint=newest.checkpoint, reason=error.message)
            self._copying_failed.add(newest.checkpoint)  # another copies this one, and we the next
