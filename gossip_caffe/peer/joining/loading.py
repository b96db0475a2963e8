"""The loading of a checkpoint into a peer: from its own disk or from a holder, verified, as flat weights."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.checkpoint.expected import Expected
from gossip_caffe.checkpoint.manifest import Manifest
from gossip_caffe.checkpoint.pull import pull
from gossip_caffe.clock import Clock
from gossip_caffe.errors import CheckpointRefused, EnvironmentProblem, NotFound, StoreError
from gossip_caffe.observe.log.events import Event
from gossip_caffe.peer.checkpoints.announcing import listed_of
from gossip_caffe.peer.core.dependencies import PeerDependencies

SAY_EVERY_S = 2.0
MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Loaded:
    """A whole checkpoint: its manifest, and its weights, float32 of shape (layout.size,)."""

    manifest: Manifest
    weights: NDArray[np.float32]


async def load(
    world: PeerDependencies, peer: str, announcement: Announcement, layout_fingerprint: str = ""
) -> Loaded:
    """Fetch a checkpoint if it is not on this machine, verify it and read it.

    ``layout_fingerprint``: of this peer's net; "" while the net is not built, and then the caller has to compare.
    Raises NotFound or CheckpointRefused with the reason, and EnvironmentProblem when the disk does not take it.
    """
    folder, checkpoint, clock = world.folder, announcement.checkpoint, world.clock
    began_at = pulled_at = clock.monotonic()
    pulled_bytes = 0
    found = await _own_copy(world, peer, announcement, layout_fingerprint)
    if found is None:
        world.say_once(f"{peer}: pulling checkpoint {checkpoint} from {_named(announcement)}")
        manifest = await pull(
            announcement,
            job=world.spec.name,
            client=world.files,
            folder=folder,
            rng=world.rng,
            on_progress=progress_lines(clock, world.say, f"{peer}: pulled"),
            remote_store=world.remote_store,
            expected=Expected.of(world.spec, layout_fingerprint),
            contact=world.contact,
        )
        pulled_bytes = sum(entry.size_bytes for entry in manifest.files)
        pulled_at = clock.monotonic()
        found = await _read(world, checkpoint, layout_fingerprint)
    world.log.emit(
        Event.LOADED,
        checkpoint=checkpoint,
        digest=found.manifest.digest,
        pulled_bytes=pulled_bytes,
        pull_s=round(pulled_at - began_at, 6),
        verify_s=round(clock.monotonic() - pulled_at, 6),
    )
    return found


def _named(announcement: Announcement) -> str:
    """The names of the first MOST_NAMED holders, and the number of the others."""
    holders = sorted(announcement.holders)
    more = len(holders) - MOST_NAMED
    return ", ".join(holders[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "") or "the job's store"


async def _own_copy(
    world: PeerDependencies, peer: str, announcement: Announcement, layout_fingerprint: str
) -> Loaded | None:
    """The copy on this machine; None when there is none that can be used.

    * A damaged copy is removed: it would be refused for ever, although other holders have the checkpoint whole.
    * A whole copy of this job with another digest than the announced one stays: the announcement is not believed.
    * A whole copy of another job is set aside.
    """
    folder, checkpoint = world.folder, announcement.checkpoint
    here = checkpoint in await asyncio.to_thread(folder.ids)
    if not here:
        expected = Expected.of(world.spec, layout_fingerprint)
        if not await asyncio.to_thread(folder.adopt, checkpoint, announcement.digest, expected.objection):
            return None
    try:
        found = await _read(world, checkpoint, layout_fingerprint)
        if found.manifest.digest == announcement.digest:
            return found
        why = "its manifest is not the one that was announced"
    except (CheckpointRefused, NotFound):
        why = await asyncio.to_thread(folder.damage, checkpoint, announcement.digest)
        if not why:
            raise  # the copy is the announced checkpoint, and does not fit this peer
    if await _is_whole(world, checkpoint):
        if checkpoint in await asyncio.to_thread(folder.of_job, world.spec.identity):
            raise CheckpointRefused(
                f"checkpoint {checkpoint} is announced with another digest than this peer's whole copy has",
                remedy="find out who wrote to etcd",
            )
        await asyncio.to_thread(folder.set_aside, checkpoint)
        world.warn(f"{peer}: its copy of a checkpoint {checkpoint} of another job is set aside")
        return None
    world.warn(f"{peer}: its own copy of a checkpoint is thrown away: {why}")
    world.log.emit(Event.CHECKPOINT_REFUSED, checkpoint=checkpoint, reason=why)
    await asyncio.to_thread(folder.remove, checkpoint)
    return None


async def _is_whole(world: PeerDependencies, checkpoint: str) -> bool:
    """Whether every byte of a copy is as its own manifest says."""
    try:
        manifest = await asyncio.to_thread(world.folder.manifest, checkpoint)
    except (CheckpointRefused, NotFound):
        return False
    is_its = manifest.checkpoint == checkpoint
    return is_its and not await asyncio.to_thread(world.folder.damage, checkpoint, manifest.digest)


async def _read(world: PeerDependencies, checkpoint: str, layout_fingerprint: str) -> Loaded:
    """Verify the copy on this machine, and read it."""
    folder = world.folder
    if not layout_fingerprint:
        manifest = await asyncio.to_thread(folder.manifest, checkpoint)
        layout_fingerprint = manifest.weight_layout().fingerprint
    return Loaded(
        *await asyncio.to_thread(
            folder.load,
            checkpoint,
            job_fingerprint=world.spec.fingerprint,
            layout_fingerprint=layout_fingerprint,
        )
    )


async def load_early(world: PeerDependencies, peer: str) -> Loaded | None:
    """Load the newest checkpoint while the net is still being built; None when that fails now."""
    try:
        listed = await listed_of(world)
        return await load(world, peer, listed[0]) if listed else None
    except (StoreError, NotFound, CheckpointRefused, EnvironmentProblem):
        return None  # it is tried again when the net is built, and that attempt says the reason


def progress_lines(clock: Clock, say: Callable[[str], None], lead: str) -> Callable[[int, int], None]:
    """A function of the bytes that are here and the bytes of all files, which says a line every SAY_EVERY_S seconds."""
    said_at = clock.monotonic()

    def told(done: int, total: int) -> None:
        nonlocal said_at
        if clock.monotonic() - said_at >= SAY_EVERY_S:
            said_at = clock.monotonic()
            say(f"{lead} {done / 1e6:,.0f} of {total / 1e6:,.0f} MB")

    return told
