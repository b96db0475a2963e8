"""Checkpoints in the store: what there is, and who holds it. Announced only once it is whole on a disk."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from gossip_caffe.checkpoint.manifest import Manifest
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.store import Guard, ModifiedAt, Put, Store


@dataclass(frozen=True, slots=True)
class Announcement:
    """One checkpoint. ``digest``: SHA-256 of its manifest; ``holders``: peer → address."""

    checkpoint: str
    digest: str
    progress_samples: int
    made_at: float
    holders: dict[str, str]

    def to_json(self) -> bytes:
        """The announcement as it stands in the store."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, value: bytes) -> Announcement:
        """Read one."""
        return cls(**json.loads(value))


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
    return [Announcement.from_json(item.value) for item in reversed(listing.items)]


async def add_holder(
    store: Store, writer: FencedWriter, keys: JobKeys, checkpoint: str, peer: str, address: str
) -> None:
    """Say that another peer holds a whole copy; nothing happens when the checkpoint is no longer announced."""
    while (item := await store.get(keys.checkpoint(checkpoint))) is not None:
        now = Announcement.from_json(item.value)
        now.holders[peer] = address
        put = Put(item.key, now.to_json())
        if (await writer.transact([ModifiedAt(item.key, item.mod_revision)], [put])).succeeded:
            return
