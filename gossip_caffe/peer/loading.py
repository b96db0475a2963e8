"""A checkpoint on the way into a peer: from this machine or from a holder, verified, and as flat weights."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.checkpoint.announce import Announcement, announced
from gossip_caffe.checkpoint.manifest import Manifest
from gossip_caffe.checkpoint.pull import pull
from gossip_caffe.clock import Clock
from gossip_caffe.errors import CheckpointRefused, EnvironmentProblem, NotFound, StoreError
from gossip_caffe.observe.events import Event
from gossip_caffe.peer.world import World

SAY_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint that is whole: its manifest and its weights, shape (layout.size,)."""

    manifest: Manifest
    weights: NDArray[np.float32]


async def load(world: World, peer: str, announcement: Announcement, layout_fingerprint: str = "") -> Loaded:
    """Have a checkpoint here, verify it and read it.

    ``layout_fingerprint``: of the own net; "" while that is not known, and then the caller has to compare. Raises
    NotFound or CheckpointRefused with the reason, and EnvironmentProblem when the disk does not take it.
    """
    folder, checkpoint, clock = world.folder, announcement.checkpoint, world.clock
    began_at = pulled_at = clock.monotonic()
    pulled_bytes = 0
    found = await _own_copy(world, peer, announcement, layout_fingerprint)
    if found is None:
        world.say(f"{peer}: pulling checkpoint {checkpoint}")
        manifest = await pull(
            announcement,
            job=world.spec.name,
            client=world.files,
            folder=folder,
            rng=world.rng,
            on_progress=said_now_and_then(clock, world.say, f"{peer}: pulled"),
            elsewhere=world.elsewhere,
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


async def _own_copy(
    world: World, peer: str, announcement: Announcement, layout_fingerprint: str
) -> Loaded | None:
    """The copy on this machine; None when there is none, or a damaged one, which is thrown away.

    Kept, it would be refused for ever, whoever else has it whole.
    """
    folder, checkpoint = world.folder, announcement.checkpoint
    here = checkpoint in folder.ids()
    if not here and not await asyncio.to_thread(folder.adopt, checkpoint, announcement.digest):
        return None
    try:
        found = await _read(world, checkpoint, layout_fingerprint)
        if found.manifest.digest == announcement.digest:
            return found
        why = "its manifest is not the one that was announced"
    except (CheckpointRefused, NotFound):
        why = await asyncio.to_thread(folder.damage, checkpoint, announcement.digest)
        if not why:
            raise  # it is what was announced, and not for this peer
    world.say(f"{peer}: its own copy of a checkpoint is thrown away: {why}")
    world.log.emit(Event.CHECKPOINT_REFUSED, checkpoint=checkpoint, reason=why)
    await asyncio.to_thread(folder.remove, checkpoint)
    return None


async def _read(world: World, checkpoint: str, layout_fingerprint: str) -> Loaded:
    """Verify what is on this machine, and read it."""
    folder = world.folder
    return Loaded(
        *await asyncio.to_thread(
            folder.load,
            checkpoint,
            job_fingerprint=world.spec.fingerprint,
            layout_fingerprint=layout_fingerprint or folder.manifest(checkpoint).weight_layout().fingerprint,
        )
    )


async def load_early(world: World, peer: str) -> Loaded | None:
    """The newest checkpoint, while the net is still being built; None when it is not to be had now."""
    try:
        listed = await announced(world.store, world.keys)
        return await load(world, peer, listed[0]) if listed else None
    except (StoreError, NotFound, CheckpointRefused, EnvironmentProblem):
        return None  # it is tried again when the net stands, and says why


def said_now_and_then(clock: Clock, say: Callable[[str], None], lead: str) -> Callable[[int, int], None]:
    """Something to tell (bytes here, bytes in all), which says a line every two seconds."""
    said_at = clock.monotonic()

    def told(done: int, total: int) -> None:
        nonlocal said_at
        if clock.monotonic() - said_at >= SAY_EVERY_S:
            said_at = clock.monotonic()
            say(f"{lead} {done / 1e6:,.0f} of {total / 1e6:,.0f} MB")

    return told
