"""A checkpoint from its holders: verified while it arrives, resumed at the next holder where one breaks off."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol

from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.manifest import MANIFEST, FileEntry, Manifest
from gossip_caffe.errors import CheckpointRefused, GossipCaffeError, NotFound


class FileClient(Protocol):
    """Reads a file of a checkpoint at a peer. Raises NotFound or CheckpointRefused when the holder fails."""

    def pull(self, address: str, job: str, checkpoint: str, file: str, offset: int) -> AsyncIterator[bytes]:
        """The file's bytes from an offset on."""
        ...


class Torn(GossipCaffeError):
    """A holder's copy is not what was announced: start the file again elsewhere."""


def silent(done_bytes: int, total_bytes: int) -> None:
    """Show no progress."""
    del done_bytes, total_bytes


async def pull(
    announcement: Announcement,
    *,
    job: str,
    client: FileClient,
    folder: CheckpointFolder,
    rng: random.Random,
    on_progress: Callable[[int, int], None] = silent,
) -> Manifest:
    """Bring a checkpoint into ``folder``; ``on_progress`` gets (bytes here, bytes in all).

    Raises CheckpointRefused with every holder's reason when none has it whole.
    """
    holders = sorted(announcement.holders.items())
    rng.shuffle(holders)
    reasons: list[str] = []
    unfinished = folder.unfinished(announcement.checkpoint)
    try:
        for peer, address in holders:
            try:
                manifest = await _manifest(announcement, job, client, address, unfinished)
                total = sum(entry.size_bytes for entry in manifest.files)
                done = 0
                for entry in manifest.files:
                    source = client.pull, address, job, announcement.checkpoint
                    async for size in _file(*source, entry, unfinished):
                        on_progress(done + size, total)
                    done += entry.size_bytes
                folder.finish(unfinished, announcement.checkpoint)
                return manifest
            except (NotFound, CheckpointRefused, Torn) as error:
                reasons.append(f"{peer}: {error.message}")
        raise CheckpointRefused(
            f"no holder has checkpoint {announcement.checkpoint} whole ({'; '.join(reasons) or 'no holders'})",
            remedy="wait for the next checkpoint",
        )
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


async def _manifest(
    announcement: Announcement, job: str, client: FileClient, address: str, unfinished: Path
) -> Manifest:
    content = b"".join(
        [piece async for piece in client.pull(address, job, announcement.checkpoint, MANIFEST, 0)]
    )
    if hashlib.sha256(content).hexdigest() != announcement.digest:
        raise Torn("its manifest is not the one that was announced")
    (unfinished / MANIFEST).write_bytes(content)
    return Manifest.from_json(content)


async def _file(
    pull_from: Callable[[str, str, str, str, int], AsyncIterator[bytes]],
    address: str,
    job: str,
    checkpoint: str,
    entry: FileEntry,
    unfinished: Path,
) -> AsyncIterator[int]:
    """Append what is missing of a file, and say how long it is now; what an earlier holder sent is kept.

    Raises Torn when the whole is wrong, CheckpointRefused when it broke off.
    """
    path = unfinished / entry.name
    digest, size = hashlib.sha256(), 0
    if path.exists():
        size = path.stat().st_size
        digest.update(path.read_bytes())
    with path.open("ab") as file:
        if size < entry.size_bytes:
            async for piece in pull_from(address, job, checkpoint, entry.name, size):
                digest.update(piece)
                size += len(piece)
                file.write(piece)
                yield size
                if size > entry.size_bytes:
                    break
    if size < entry.size_bytes:
        raise CheckpointRefused(f"{entry.name} broke off after {size} of {entry.size_bytes} bytes")
    if size != entry.size_bytes or digest.hexdigest() != entry.sha256:
        path.unlink()
        raise Torn(f"{entry.name} is not what was announced")
