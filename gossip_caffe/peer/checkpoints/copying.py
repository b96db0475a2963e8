"""Second copies of checkpoints: a peer whose turn it is pulls the newest checkpoint that another peer has made."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from gossip_caffe.checkpoint.announce import Announcement, add_holder
from gossip_caffe.checkpoint.expected import Expected
from gossip_caffe.checkpoint.pull import pull
from gossip_caffe.errors import CheckpointRefused, NotFound
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.observe.log.events import Event
from gossip_caffe.peer.checkpoints.back_off import CopyTurn, DiskBackOff
from gossip_caffe.peer.checkpoints.retaining import CheckpointRetention
from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.peer.registration.incarnation import Incarnation
from gossip_caffe.peer.work.trainer import Trainer

COPIES = 2


class CopyingPeer(Protocol):
    """The parts of a peer that ``Copying`` needs. ``incarnation`` changes when the peer registers again."""

    world: PeerDependencies
    trainer: Trainer
    incarnation: Incarnation
    peer: str

    @property
    def address(self) -> str:
        """The address at which other peers reach this one."""
        ...

    @property
    def training_peers(self) -> Mapping[str, PeerRecord]:
        """The peers that train now, with this one: peer → record."""
        ...


class Copying:
    """One peer's part in second copies. ``retention`` is told of each copy, ``back_off`` of a disk that took one."""

    def __init__(self, member: CopyingPeer, retention: CheckpointRetention, back_off: DiskBackOff) -> None:
        self._member = member
        self._world = member.world
        self._retention = retention
        self._back_off = back_off
        self._failed: set[str] = set()
        self._turns = CopyTurn(self._world.clock, 4 * member.trainer.layout.size)

    async def look(self, listed: Sequence[Announcement]) -> None:
        """Copy the newest checkpoint of ``listed`` that this peer has not failed to copy, if its turn has come.

        Raises StoreError, or EnvironmentProblem when the disk does not take it.
        """
        if newest := next((entry for entry in listed if entry.checkpoint not in self._failed), None):
            await self._copy(newest)

    async def _pull(self, announcement: Announcement) -> None:
        """Pull a checkpoint. Raises CheckpointRefused, or EnvironmentProblem when the disk does not take it."""
        world = self._world
        await pull(
            announcement,
            job=world.spec.name,
            client=world.files,
            folder=world.folder,
            rng=world.rng,
            remote_store=world.remote_store,
            expected=Expected.of(world.spec, self._member.trainer.layout.fingerprint),
            contact=world.contact,
        )

    def _digest_here(self, checkpoint: str) -> str:
        """The digest of the copy on this disk; "" when there is none, or none that can be read."""
        try:
            return self._world.folder.manifest(checkpoint).digest
        except (NotFound, CheckpointRefused):
            return ""

    async def _may_copy(self, newest: Announcement) -> bool:
        """Whether this disk has no copy of that name with another digest: an announcement must not replace one."""
        if self._digest_here(newest.checkpoint) in {"", newest.digest}:
            return True
        key = self._world.keys.checkpoint(newest.checkpoint)
        self._world.ignored.note(key, 0, "this peer holds it with another digest")
        self._failed.add(newest.checkpoint)
        return False

    async def _copy(self, newest: Announcement) -> None:
        """Make a second copy of the newest checkpoint, if it is this peer's turn.

        Among the training peers that have no copy the first turn is that of the lowest id.
        """
        member = self._member
        training = member.training_peers
        if not await self._may_copy(newest):
            return
        if sum(holder in training for holder in newest.holders) >= COPIES:
            self._turns.copied()
            return
        others = sorted(training.keys() - newest.holders.keys())
        if not others:
            self._turns.copied()
            return
        if member.peer not in others or newest.checkpoint in self._failed:
            return
        if not self._turns.ours(others.index(member.peer)):
            return
        try:
            if self._digest_here(newest.checkpoint) != newest.digest:
                await self._pull(newest)
            await asyncio.to_thread(self._world.folder.flush, newest.checkpoint)
            self._back_off.succeeded()
            await add_holder(
                self._world.store,
                member.incarnation.writer,
                self._world.keys,
                newest.checkpoint,
                member.peer,
                member.address,
                member.training_peers,
            )
            self._retention.note_held(newest.checkpoint)
        except CheckpointRefused as error:
            self._world.log.emit(Event.CHECKPOINT_REFUSED, checkpoint=newest.checkpoint, reason=error.message)
            self._failed.add(newest.checkpoint)  # another peer copies this one, and this peer the next
