"""This peer's part in checkpoints: makes them while it holds the duty, copies others', and sees the job's end."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gossip_caffe.checkpoint.announce import Announcement, add_holder, announce, announced, checkpoint_id
from gossip_caffe.checkpoint.duty import CHECKPOINTS, Held, due, take
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.manifest import Manifest, ranges_of
from gossip_caffe.checkpoint.pull import FileClient, pull
from gossip_caffe.clock import Clock
from gossip_caffe.errors import CheckpointRefused, StoreError
from gossip_caffe.gossip.collect import consensus
from gossip_caffe.gossip.message import Message, Transport
from gossip_caffe.job.spec import JobSpec
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.membership.store import Absent, CreatedAt, Delete, Guard, Operation, Put, Store
from gossip_caffe.observe.events import Event, EventLog
from gossip_caffe.peer.pace import checkpoint_interval
from gossip_caffe.peer.progress import Progress
from gossip_caffe.peer.trainer import Trainer
from gossip_caffe.shards.ledger import Ledger

LOOK_EVERY_S = 0.5
ALONE_EVERY_S = 2.0
COPIES = 2


@dataclass(frozen=True, slots=True)
class CheckpointRoom:
    """Where this peer keeps checkpoints, and how it reads those of others."""

    folder: CheckpointFolder
    client: FileClient


class Member(Protocol):
    """What this room needs of the agent; a new incarnation replaces session, writer and ledger."""

    spec: JobSpec
    peer: str
    keys: JobKeys
    trainer: Trainer
    progress: Progress

    @property
    def address(self) -> str: ...  # noqa: D102
    @property
    def session(self) -> LeaseSession: ...  # noqa: D102
    @property
    def writer(self) -> FencedWriter: ...  # noqa: D102
    @property
    def ledger(self) -> Ledger: ...  # noqa: D102
    @property
    def training(self) -> Mapping[str, PeerRecord]: ...  # noqa: D102
    def partners(self) -> Mapping[str, str]: ...  # noqa: D102
    def checkpointed(self, batches: int, checkpoint: str) -> None: ...  # noqa: D102


class Checkpointing:
    """``job_finished`` is set once the whole budget is trained and its last checkpoint is announced."""

    def __init__(
        self,
        *,
        agent: Member,
        room: CheckpointRoom,
        store: Store,
        transport: Transport,
        clock: Clock,
        rng: random.Random,
        log: EventLog,
    ) -> None:
        self.job_finished = asyncio.Event()
        self.newest = ""
        self._agent = agent
        self._room = room
        self._store = store
        self._transport = transport
        self._clock = clock
        self._rng = rng
        self._log = log
        self._newest_samples = 0
        self._every = checkpoint_interval(agent.spec.settings, agent.spec.budget_samples)
        self._made_at = clock.monotonic()
        self._copying_failed: set[str] = set()

    async def run(self) -> None:
        """Look at what is due, for ever. The store being away, or a disk that is full, only delays."""
        while True:
            try:
                await self._look()
            except StoreError:
                pass  # the store is away: what is due stays due
            await self._clock.sleep(LOOK_EVERY_S)

    async def _look(self) -> None:
        agent = self._agent
        if (end := await self._store.get(agent.keys.finished)) is not None:
            self.newest = json.loads(end.value)["checkpoint"]
            self._log.emit(Event.FINISHED, checkpoint=self.newest)
            self.job_finished.set()
            return
        if listed := await announced(self._store, agent.keys):
            self.newest, self._newest_samples = listed[0].checkpoint, listed[0].progress_samples
            await self._copy(listed[0])
        held = await take(self._store, agent.writer, agent.keys, agent.peer, agent.session.id)
        if not held.ours:
            return
        finished = agent.progress.finished
        decision = due(
            agent.progress.samples,
            self._newest_samples,
            self._every,
            finished=finished,
            alone_unsettled=self._alone_unsettled(),
        )
        if decision.now:
            made = await self.make(decision.reason, held)
            if made and finished:
                await self._finish(made, held)
            await self._forget_old(listed)

    def _alone_unsettled(self) -> bool:
        """Nobody to share with, and learning that only a checkpoint can settle."""
        stream = self._agent.trainer.stream
        if self._agent.partners() or not stream.unsettled:
            return False
        return not stream.untrained or self._clock.monotonic() - self._made_at >= ALONE_EVERY_S

    async def make(self, reason: str, held: Held | None = None) -> str:
        """Make, write and announce a checkpoint; returns its id, or "" when somebody else took the duty over.

        What is done is read before the weights are collected, so that the weights hold all of it.
        """
        agent = self._agent
        progress = agent.progress.samples
        folded = await agent.ledger.refresh()
        open_epochs = range(folded, min(folded + 64, agent.ledger.epochs))
        done = []
        for epoch in open_epochs:
            state = await agent.ledger.state(epoch)
            if not state.done and not state.owned:
                break
            done.append((epoch, ranges_of(state.done)))
        agent.trainer.board.request_publication()
        own = np.empty(agent.trainer.layout.size, dtype=np.float32)
        snapshot = agent.trainer.board.snapshot(own)
        request = Message("", agent.peer, agent.spec.name, agent.trainer.layout.fingerprint)
        agreed = await consensus(request, own, agent.partners(), self._transport, self._rng)
        manifest = Manifest(
            checkpoint=checkpoint_id(progress, f"{agent.peer}-{self._rng.getrandbits(16):04x}"),
            job=agent.spec.name,
            job_fingerprint=agent.spec.fingerprint,
            layout=tuple((blob.layer, blob.index, blob.shape) for blob in agent.trainer.layout.blobs),
            progress_samples=progress,
            folded=folded,
            done=tuple(done),
            maker=agent.peer,
            contributors=agreed.contributors,
            made_at=self._clock.wall(),
        )
        manifest = await asyncio.to_thread(self._room.folder.write, manifest, agreed.weights)
        guards: tuple[Guard, ...] = ()
        if held is not None:
            guards = (CreatedAt(agent.keys.duty(CHECKPOINTS), held.revision),)
        if not await announce(agent.writer, agent.keys, manifest, agent.address, guards):
            return ""
        self._made_at = self._clock.monotonic()
        self.newest, self._newest_samples = manifest.checkpoint, progress
        self._log.emit(
            Event.CHECKPOINTED,
            checkpoint=manifest.checkpoint,
            digest=manifest.digest,
            progress_samples=progress,
            contributors=list(agreed.contributors),
            reason=reason,
        )
        agent.checkpointed(snapshot.batches, manifest.checkpoint)
        return manifest.checkpoint

    async def _finish(self, checkpoint: str, held: Held) -> None:
        """The budget is trained and the last checkpoint is there: say so, once."""
        agent = self._agent
        value = {
            "checkpoint": checkpoint,
            "progress_samples": agent.progress.samples,
            "wall": self._clock.wall(),
        }
        guards: list[Guard] = [
            Absent(agent.keys.finished),
            CreatedAt(agent.keys.duty(CHECKPOINTS), held.revision),
        ]
        await agent.writer.transact(guards, [Put(agent.keys.finished, json.dumps(value).encode())])

    async def _copy(self, newest: Announcement) -> None:
        """Keep a second copy of the newest checkpoint: the training peer with the lowest id that has none does it."""
        agent = self._agent
        living = [holder for holder in newest.holders if holder in agent.training]
        others = sorted(peer for peer in agent.training if peer not in newest.holders)
        if len(living) >= COPIES or not others or others[0] != agent.peer:
            return
        if newest.checkpoint in self._copying_failed:
            return
        try:
            await pull(
                newest, job=agent.spec.name, client=self._room.client, folder=self._room.folder, rng=self._rng
            )
            await add_holder(
                self._store, agent.writer, agent.keys, newest.checkpoint, agent.peer, agent.address
            )
        except CheckpointRefused:
            self._copying_failed.add(newest.checkpoint)  # the next checkpoint will be copied

    async def _forget_old(self, listed: list[Announcement]) -> None:
        """Take back the announcements that nobody needs any more, and the copies here."""
        keep = self._agent.spec.settings.keep_checkpoints
        old: list[Operation] = [
            Delete(self._agent.keys.checkpoint(entry.checkpoint)) for entry in listed[keep:]
        ]
        for first in range(0, len(old), 64):
            await self._agent.writer.transact([], old[first : first + 64])
        self._room.folder.prune(keep)
