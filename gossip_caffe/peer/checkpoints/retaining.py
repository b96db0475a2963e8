"""The retention of a job's checkpoints: on this peer's disk, in the announcements, and in the job's store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from gossip_caffe.checkpoint.announce import Announcement, add_score, announce
from gossip_caffe.checkpoint.copy_removal import (
    GRACE_S,
    NEWEST_WHOLE,
    Copy,
    copies_to_remove,
    next_decision_in_s,
)
from gossip_caffe.checkpoint.manifest import Manifest
from gossip_caffe.checkpoint.retention import Retention
from gossip_caffe.checkpoint.withdrawn import Withdrawn, withdraw, withdrawn
from gossip_caffe.errors import CheckpointRefused, NotFound
from gossip_caffe.membership.etcd.store import Guard
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.observe.log.events import Event
from gossip_caffe.observe.log.tested import ConsensusTest
from gossip_caffe.peer.checkpoints.announcing import listed_of
from gossip_caffe.peer.core.dependencies import PeerDependencies


class CheckpointRetention:
    """One peer's part in the retention of checkpoints. All peers decide alike, by the announcements."""

    def __init__(self, world: PeerDependencies, peer: str = "") -> None:
        settings = world.spec.settings
        self._world = world
        self._peer = peer
        self._retention = Retention(
            settings.keep_checkpoints, settings.keep_every_samples, settings.keep_best
        )
        self._here = UnannouncedSince(world)
        self._in_remote_store = UnannouncedSince(world)
        self._announced: frozenset[str] = frozenset()
        self._again_at = float("-inf")
        self._whole: set[str] = set()
        """The copies that this process has found to be whole."""
        self.vanished: list[str] = []
        """The checkpoints whose announcement vanished although no peer withdrew it, and that this peer holds whole.

        The newest is the last."""

    async def note_announced(self, listed: Sequence[Announcement]) -> None:
        """Note the checkpoints that are announced now, and remove old copies from this disk.

        Only a copy that is not announced is removed, as a rule after its grace; ``copies_to_remove`` has the rules.
        ``listed`` must have been read just now.
        """
        there = frozenset(entry.checkpoint for entry in listed)
        now = self._world.clock.monotonic()
        if there == self._announced and now < self._again_at:
            return
        copies = await asyncio.to_thread(self._world.folder.of_job, self._world.spec.identity)
        taken_back = await self._taken_back(copies, there)
        gone = self._here.note(copies, there, taken_back.by, now)
        whole = await asyncio.to_thread(self._newest_whole, copies) if gone else []
        self.vanished = [
            copy.checkpoint
            for copy in gone
            if not copy.withdrawn_by
            and copy.checkpoint in whole
            and self._here.was_announced(copy.checkpoint)
        ]
        removed = copies_to_remove(gone, whole, self._retention.last)
        for entry in removed:
            await asyncio.to_thread(self._world.folder.remove, entry.copy.checkpoint)
            self._world.log.emit(
                Event.FORGOT,
                checkpoint=entry.copy.checkpoint,
                by=entry.copy.withdrawn_by,
                waited_s=round(entry.copy.gone_s, 3),
                why=entry.why,
                kept=whole,
            )
        self._announced = there
        left = {entry.copy.checkpoint for entry in removed}
        self._again_at = now + next_decision_in_s(copy for copy in gone if copy.checkpoint not in left)

    def note_held(self, checkpoint: str) -> None:
        """Note that a copy of an announced checkpoint is on this disk from now on."""
        self._here.announced(checkpoint)

    async def _taken_back(self, names: Iterable[str], announced: frozenset[str]) -> Withdrawn:
        if all(name in announced for name in names):
            return Withdrawn()
        return await withdrawn(self._world.store, self._world.keys, self._world.ignored.note)

    def _newest_whole(self, copies: Sequence[str]) -> list[str]:
        """The newest whole copies on this disk, NEWEST_WHOLE of them: they are never removed."""
        found: list[str] = []
        for checkpoint in sorted(copies, reverse=True):
            if checkpoint not in self._whole:
                try:
                    manifest = self._world.folder.manifest(checkpoint)
                    if self._world.folder.damage(checkpoint, manifest.digest):
                        continue
                except (NotFound, CheckpointRefused):
                    continue
                self._whole.add(checkpoint)
            found.append(checkpoint)
            if len(found) == NEWEST_WHOLE:
                break
        self._whole &= set(copies)
        return found

    async def announce_again(self, writer: FencedWriter, address: str, guards: tuple[Guard, ...]) -> None:
        """Announce again the newest checkpoint whose announcement another process removed, with this peer as holder."""
        for checkpoint in self.vanished[-1:]:
            manifest = await asyncio.to_thread(self._world.folder.manifest, checkpoint)
            if await announce(writer, self._world.keys, manifest, address, guards, holder=self._peer):
                why = "its announcement was removed, and no peer took it back"
                self._world.ignored.put_right(self._world.keys.checkpoint(checkpoint), writer.revision, why)
        self.vanished = []

    async def withdraw_old(self, writer: FencedWriter, guards: tuple[Guard, ...] = ()) -> None:
        """Withdraw the announcements of checkpoints that the retention does not keep."""
        listed = await listed_of(self._world)
        kept = self._retention.kept(listed)
        old = [entry.checkpoint for entry in listed if entry.checkpoint not in kept]
        await withdraw(self._world.store, writer, self._world.keys, self._peer or "peer", old, guards)

    async def keep_in_remote_store(self, made: str) -> None:
        """Copy a new checkpoint to the job's store, and remove old ones there. Raises EnvironmentProblem.

        List the store first and the announcements second: a checkpoint that is listed and not announced is then safe
        to remove. For a checkpoint is announced before it is copied to the store, and a withdrawn one is never
        announced again; so no new checkpoint is removed, however late this peer is. The other rules of removal are
        those of a disk (``copies_to_remove``).
        """
        if (remote_store := self._world.remote_store) is None:
            return
        folder = self._world.folder
        await remote_store.put(folder.path(made), await asyncio.to_thread(folder.manifest, made))
        self._world.log.emit(Event.KEPT, checkpoint=made, url=remote_store.url)
        names = await remote_store.names()
        there = frozenset(entry.checkpoint for entry in await listed_of(self._world))
        taken_back = await self._taken_back(names, there)
        gone = self._in_remote_store.note(names, there, taken_back.by, self._world.clock.monotonic())
        newest = sorted(names)[-NEWEST_WHOLE:]
        await remote_store.remove(
            [entry.copy.checkpoint for entry in copies_to_remove(gone, newest, self._retention.last)]
        )

    async def note_score(self, listed: Sequence[Announcement], writer: FencedWriter) -> None:
        """Write the score of the newest test into the announcement of the checkpoint that is nearest to it."""
        if not self._retention.best or not listed:
            return
        if (item := await self._world.store.get(self._world.keys.tested)) is None:
            return
        try:
            tested = ConsensusTest.from_json(item.value)
        except ValueError as error:  # the test of a version that this one cannot read
            self._world.ignored.note(item.key, item.mod_revision, str(error))
            return
        nearest = min(listed, key=lambda entry: abs(entry.progress_samples - tested.progress_samples))
        if tested.score is None or nearest.scored_samples == tested.progress_samples:
            return
        where = nearest.checkpoint, tested.score, tested.progress_samples
        await add_score(self._world.store, writer, self._world.keys, *where)


class UnannouncedSince:
    """The copies in one place that are not announced, and since when, as this process has seen it."""

    def __init__(self, world: PeerDependencies) -> None:
        self._world = world
        self._since: dict[str, float] = {}
        self._announced: set[str] = set()

    def was_announced(self, checkpoint: str) -> bool:
        """Whether this process has seen the checkpoint announced."""
        return checkpoint in self._announced

    def announced(self, checkpoint: str) -> None:
        """Note that the checkpoint is announced."""
        self._announced.add(checkpoint)

    def note(
        self, names: Iterable[str], announced: frozenset[str], taken_back: Mapping[str, str], now: float
    ) -> list[Copy]:
        """Look at the copies ``names``; returns those that are not announced.

        ``taken_back``: checkpoint → the peer that withdrew it. An announcement that vanished without a withdrawal is
        noted once.
        """
        there = set(names)
        self._announced &= there
        self._announced |= announced & there
        self._since = {name: at for name, at in self._since.items() if name in there - announced}
        gone = []
        for name in sorted(there - announced):
            since = self._since.setdefault(name, now)
            by = taken_back.get(name, "")
            if not by and name in self._announced:
                self._world.ignored.note(
                    self._world.keys.checkpoint(name),
                    0,
                    "its announcement is gone, and no peer took it back: the copy here stays "
                    f"{GRACE_S / 60:.0f} minutes, one of the newest {NEWEST_WHOLE} for good",
                )
            gone.append(Copy(name, now - since, by))
        return gone


def newest_own(world: PeerDependencies) -> Manifest | None:
    """The manifest of the newest whole copy of this job on this disk; None when there is none."""
    folder = world.folder
    for checkpoint in sorted(folder.of_job(world.spec.identity), reverse=True):
        try:
            manifest = folder.manifest(checkpoint)
        except (NotFound, CheckpointRefused):
            continue
        if not folder.damage(checkpoint, manifest.digest):
            return manifest
    return None
