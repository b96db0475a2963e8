"""Checkpoints in the store: what there is, and who holds it. Announced only once it is whole on a disk."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Container
from dataclasses import dataclass, replace

from gossip_caffe.checkpoint.manifest import Manifest
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.store import Guard, ModifiedAt, Put, Store
from gossip_caffe.stored import read_record, to_object

HOLDERS_ENOUGH = 32
"""So many living holders share what joiners pull. An announcement of a thousand would be read by a thousand, and when a
thousand join at once each of them would have to write it after all the others."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """One checkpoint. ``digest``: BLAKE3 of its manifest; ``holders``: peer → address.

    ``score``: of the test of the consensus that was nearest to it, more is better; None while there is none.
    ``scored_samples``: where the job was at that test.
    """

    checkpoint: str
    digest: str
    progress_samples: int
    made_at: float
    holders: dict[str, str]
    score: float | None = None
    scored_samples: int = -1

    def to_json(self) -> bytes:
        """The announcement as it stands in the store."""
        return json.dumps(to_object(self)).encode()

    @classmethod
    def from_json(cls, value: bytes) -> Announcement:
        """Read one. Raises ValueError when it is none."""
        return _announcement(value)


@functools.lru_cache(maxsize=64)
def _announcement(value: bytes) -> Announcement:
    """Remembered: every peer looks at all of them now and then, and they hardly change."""
    return read_record(Announcement, value)


def checkpoint_id(progress_samples: int, maker: str) -> str:
    """A name that sorts by progress and that no two makers share."""
    return f"{progress_samples:014d}-{maker}"


async def announce(
    writer: FencedWriter, keys: JobKeys, manifest: Manifest, address: str, guards: tuple[Guard, ...] = ()
) -> bool:
    """Say that a checkpoint is there, held by its maker; False when a guard (the maker's duty) failed."""
    announcement = Announcement(
        manifest.checkpoint,
        manifest.digest,
        manifest.progress_samples,
        manifest.made_at,
        {manifest.maker: address},
    )
    put = Put(keys.checkpoint(manifest.checkpoint), announcement.to_json())
    return (await writer.transact(list(guards), [put])).succeeded


async def announced(store: Store, keys: JobKeys) -> list[Announcement]:
    """All announced checkpoints, newest first."""
    listing = await store.list(keys.checkpoints)
    found = []
    for item in reversed(listing.items):
        try:
            announcement = Announcement.from_json(item.value)
        except ValueError:
            continue  # somebody else's, or of a version that we cannot read
        if item.key == keys.checkpoint(announcement.checkpoint):
            found.append(announcement)
    return found


async def add_holder(
    store: Store,
    writer: FencedWriter,
    keys: JobKeys,
    checkpoint: str,
    peer: str,
    address: str,
    living: Container[str],
) -> None:
    """Say that another peer holds a whole copy; nothing happens when the checkpoint is no longer announced.

    ``living``: who can be asked; when HOLDERS_ENOUGH of them hold it already, one more is not written down.
    """

    def held(now: Announcement) -> Announcement:
        if sum(holder in living for holder in now.holders) >= HOLDERS_ENOUGH:
            return now
        return replace(now, holders={**now.holders, peer: address})

    await _change(store, writer, keys, checkpoint, held)


async def add_score(
    store: Store, writer: FencedWriter, keys: JobKeys, checkpoint: str, score: float, samples: int
) -> None:
    """Say what a test at ``samples`` gave; a test that was nearer to the checkpoint stands."""

    def scored(now: Announcement) -> Announcement:
        before = abs(now.scored_samples - now.progress_samples)
        if now.score is not None and before <= abs(samples - now.progress_samples):
            return now
        return replace(now, score=score, scored_samples=samples)

    await _change(store, writer, keys, checkpoint, scored)


async def _change(
    store: Store,
    writer: FencedWriter,
    keys: JobKeys,
    checkpoint: str,
    changed: Callable[[Announcement], Announcement],
) -> None:
    while (item := await store.get(keys.checkpoint(checkpoint))) is not None:
        try:
            before = Announcement.from_json(item.value)
        except ValueError:
            return  # somebody wrote over it
        if (after := changed(before)) == before:
            return
        put = Put(item.key, after.to_json())
        if (await writer.transact([ModifiedAt(item.key, item.mod_revision)], [put])).succeeded:
            return
