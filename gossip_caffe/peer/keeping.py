"""Which of a job's checkpoints stay, on this peer's disk, in the announcements and in the job's store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gossip_caffe.checkpoint.announce import Announcement, add_score, announced
from gossip_caffe.checkpoint.retention import Retention
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.store import Delete
from gossip_caffe.observe.events import Event
from gossip_caffe.observe.tested import ConsensusTest
from gossip_caffe.peer.world import World

DELETES_A_TRANSACTION = 64


class Keeping:
    """What one peer does about old checkpoints; all peers decide alike, by what is announced."""

    def __init__(self, world: World) -> None:
        settings = world.spec.settings
        self._world = world
        self._retention = Retention(
            settings.keep_checkpoints, settings.keep_every_samples, settings.keep_best
        )
        self._identity = world.spec.identity
        self._announced: frozenset[str] = frozenset()

    async def seen(self, listed: Sequence[Announcement]) -> None:
        """These are announced, and no other: what else this disk has of the job is needed by nobody, and goes.

        So goes what was dropped or withdrawn, and what was made and never announced. ``listed`` is to be fresh: what
        was announced after it would go, too.
        """
        there = frozenset(entry.checkpoint for entry in listed)
        if there != self._announced:
            await asyncio.to_thread(self._world.folder.prune, self._identity, there)
            self._announced = there

    async def forget_old(self, writer: FencedWriter) -> None:
        """Take back the announcements that nobody needs any more."""
        listed = await announced(self._world.store, self._world.keys)
        kept = self._retention.kept(listed)
        old = [entry.checkpoint for entry in listed if entry.checkpoint not in kept]
        for first in range(0, len(old), DELETES_A_TRANSACTION):
            part = old[first : first + DELETES_A_TRANSACTION]
            await writer.transact(
                [], [Delete(self._world.keys.checkpoint(checkpoint)) for checkpoint in part]
            )

    async def keep_elsewhere(self, made: str) -> None:
        """Copy what was just made to the job's store, and remove there what is old. Raises EnvironmentProblem.

        Old is what lay there before it was seen that nobody announces it: what lies there was announced first, and what
        is not announced any more never is again. So nothing new is removed, however late this peer may be.
        """
        if (elsewhere := self._world.elsewhere) is None:
            return
        folder = self._world.folder
        await elsewhere.put(folder.path(made), folder.manifest(made))
        self._world.log.emit(Event.KEPT, checkpoint=made, url=elsewhere.url)
        there = await elsewhere.names()
        listed = await announced(self._world.store, self._world.keys)
        if listed:
            await elsewhere.remove(set(there).difference(entry.checkpoint for entry in listed))

    async def note_score(self, listed: Sequence[Announcement], writer: FencedWriter) -> None:
        """Note the newest test of the consensus at the checkpoint that is nearest to it."""
        if not self._retention.best or not listed:
            return
        if (item := await self._world.store.get(self._world.keys.tested)) is None:
            return
        try:
            tested = ConsensusTest.from_json(item.value)
        except ValueError:
            return  # of a version that we cannot read
        nearest = min(listed, key=lambda entry: abs(entry.progress_samples - tested.progress_samples))
        if tested.score is None or nearest.scored_samples == tested.progress_samples:
            return
        where = nearest.checkpoint, tested.score, tested.progress_samples
        await add_score(self._world.store, writer, self._world.keys, *where)
