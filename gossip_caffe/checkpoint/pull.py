"""A checkpoint from its holders: verified while it arrives, resumed at the next holder where one breaks off."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.checkpoint.digest import digest_of, new_digest, read_into_digest
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.manifest import MANIFEST, FileEntry, Manifest
from gossip_caffe.errors import CheckpointRefused, EnvironmentProblem, GossipCaffeError, NotFound
from gossip_caffe.gossip.file_transfer import Into

BULK_BYTES = 1 << 18
"""Files from this size on come over a connection of their own."""


class FileClient(Protocol):
    """Reads a file of a checkpoint at a peer. Raises NotFound or CheckpointRefused when the holder fails."""

    def pull(self, address: str, job: str, checkpoint: str, file: str, offset: int) -> AsyncIterator[bytes]:
        """The file's bytes from an offset on."""
        ...


@runtime_checkable
class BulkFileClient(FileClient, Protocol):
    """One that can bring a large file faster than in pieces."""

    async def fetch(
        self, address: str, job: str, checkpoint: str, file: str, offset: int, into: Into
    ) -> None:
        """As ``pull``, into a file. What broke off just ends."""
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
    elsewhere: FileClient | None = None,
) -> Manifest:
    """Bring a checkpoint into ``folder``; ``on_progress`` gets (bytes here, bytes in all).

    ``elsewhere`` is asked for what no holder has. Raises CheckpointRefused with every holder's reason when none has it
    whole, EnvironmentProblem when the disk does not take it.
    """
    holders = [(peer, client, address) for peer, address in sorted(announcement.holders.items())]
    rng.shuffle(holders)
    if elsewhere is not None:
        holders.append(("the job's store", elsewhere, ""))
    reasons: list[str] = []
    unfinished: Path | None = None
    try:
        unfinished = folder.unfinished(announcement.checkpoint)
        for peer, source, address in holders:
            try:
                manifest = await _manifest(announcement, job, source, address, unfinished)
                total = sum(entry.size_bytes for entry in manifest.files)
                done = 0
                for entry in manifest.files:
                    copy = _Source(source, address, job, announcement.checkpoint)
                    before = done
                    await _file(copy, entry, unfinished, lambda size: on_progress(before + size, total))  # noqa: B023
                    done += entry.size_bytes
                await asyncio.to_thread(folder.finish, unfinished, announcement.checkpoint)
                return manifest
            except (NotFound, CheckpointRefused, Torn) as error:
                reasons.append(f"{peer}: {error.message}")
        raise CheckpointRefused(
            f"no holder has checkpoint {announcement.checkpoint} whole ({'; '.join(reasons) or 'no holders'})",
            remedy="wait for the next checkpoint",
        )
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot write checkpoint {announcement.checkpoint} to {folder.root} ({error.strerror})",
            remedy="free some disk space, or give another folder",
        ) from error
    finally:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)


async def _manifest(
    announcement: Announcement, job: str, client: FileClient, address: str, unfinished: Path
) -> Manifest:
    content = b"".join(
        [piece async for piece in client.pull(address, job, announcement.checkpoint, MANIFEST, 0)]
    )
    if digest_of(content) != announcement.digest:
        raise Torn("its manifest is not the one that was announced")
    (unfinished / MANIFEST).write_bytes(content)
    return Manifest.from_json(content)


@dataclass(frozen=True, slots=True)
class _Source:
    """One holder's copy."""

    client: FileClient
    address: str
    job: str
    checkpoint: str

    async def bring(self, file: str, offset: int, into: Into) -> None:
        """What is missing of a file, from ``offset`` on."""
        where = self.address, self.job, self.checkpoint, file, offset
        if isinstance(self.client, BulkFileClient) and into.most_bytes >= BULK_BYTES:
            await self.client.fetch(*where, into)
            return
        async for piece in self.client.pull(*where):
            into.take(piece)
            if into.came >= into.most_bytes:
                break


async def _file(source: _Source, entry: FileEntry, unfinished: Path, told: Callable[[int], None]) -> None:
    """Bring a file; what an earlier holder sent of it is kept, unless the whole is wrong with it.

    Raises Torn when this holder's own copy is wrong, CheckpointRefused when it broke off.
    """
    path = unfinished / entry.name
    if path.exists():
        try:
            await _rest(source, entry, path, told)
            return
        except Torn:
            pass  # the earlier holder's part may be the wrong one: all of it from this one
    await _rest(source, entry, path, told)


async def _rest(source: _Source, entry: FileEntry, path: Path, told: Callable[[int], None]) -> None:
    """Append what is missing of a file. Raises Torn, and removes it, when the whole is wrong."""
    digest, size = new_digest(), 0
    if path.exists():
        with path.open("rb") as before:
            digest, size = read_into_digest(before)
    with path.open("ab", buffering=0) as file:
        if size < entry.size_bytes:
            # One byte more than announced is as wrong as one less.
            most = entry.size_bytes - size + 1
            await source.bring(entry.name, size, Into(file, digest, most, lambda came: told(size + came)))
        size = os.fstat(file.fileno()).st_size
    if size < entry.size_bytes:
        raise CheckpointRefused(f"{entry.name} broke off after {size} of {entry.size_bytes} bytes")
    if size != entry.size_bytes or digest.hexdigest() != entry.blake3:
        path.unlink()
        raise Torn(f"{entry.name} is not what was announced")
