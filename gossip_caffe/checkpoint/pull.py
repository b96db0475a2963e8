"""Pulling a checkpoint from its holders. It is verified as it arrives, and resumed at the next holder after a break.

After the last holder the pull starts again at the first one, as long as a round of all holders brings a part that is
worth it: a holder with many joiners may have ended this transfer for another one.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.checkpoint.expected import Expected, disagreement, total_bytes
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.formats.digest import digest_of, new_digest, read_into_digest
from gossip_caffe.checkpoint.manifest import MANIFEST, MOST_BYTES, FileEntry, Manifest
from gossip_caffe.errors import CheckpointRefused, EnvironmentProblem, GossipCaffeError, NotFound
from gossip_caffe.gossip.policy.contact import Contact, NoContact
from gossip_caffe.gossip.transport.file_transfer import FileSink

BULK_BYTES = 1 << 18
"""Files of at least this many bytes use a connection of their own."""
MOST_PARTS = 1024
"""Another round of all holders follows if a round brought at least one such part of the checkpoint."""


class FileClient(Protocol):
    """Reads a file of a checkpoint from a peer. Raises NotFound or CheckpointRefused when the holder fails."""

    def pull(self, address: str, job: str, checkpoint: str, file: str, offset: int) -> AsyncIterator[bytes]:
        """The file's bytes from an offset on, in pieces."""
        ...


@runtime_checkable
class BulkFileClient(FileClient, Protocol):
    """A client that can also transfer a large file over a faster connection."""

    async def fetch(
        self, address: str, job: str, checkpoint: str, file: str, offset: int, into: FileSink
    ) -> None:
        """Transfer a file from an offset on into ``into``.

        A broken connection just ends the transfer; the caller checks the size.
        """
        ...


class Torn(GossipCaffeError):
    """A holder's copy differs from the announced checkpoint: begin the file again at another holder."""


class NoHolder(CheckpointRefused):
    """No holder has the whole checkpoint. ``reasons``: one per holder."""

    def __init__(self, checkpoint: str, reasons: tuple[str, ...]) -> None:
        super().__init__(
            f"no holder has checkpoint {checkpoint} whole ({'; '.join(reasons) or 'no holders'})",
            remedy="wait for the next checkpoint",
        )
        self.reasons = reasons


def silent(done_bytes: int, total_bytes: int) -> None:
    """Report no progress."""
    del done_bytes, total_bytes


async def pull(
    announcement: Announcement,
    *,
    job: str,
    client: FileClient,
    folder: CheckpointFolder,
    rng: random.Random,
    on_progress: Callable[[int, int], None] = silent,
    remote_store: FileClient | None = None,
    expected: Expected | None = None,
    contact: Contact = NoContact(),  # noqa: B008 - it has no state
) -> Manifest:
    """Pull a checkpoint into ``folder``. ``on_progress`` receives (bytes received, bytes in total).

    The manifest comes first, and is checked completely, also against ``expected``, before any file is requested.
    ``remote_store`` is used for files that no holder has. ``contact`` is told which holders answer. Raises NoHolder
    with each holder's reason when none has the whole checkpoint, and EnvironmentProblem when the disk fails.
    """
    holders = [(peer, client, address) for peer, address in sorted(announcement.holders.items())]
    rng.shuffle(holders)
    if remote_store is not None:
        holders.append(("the job's store", remote_store, ""))
    unfinished: Path | None = None
    try:
        unfinished = await asyncio.to_thread(folder.unfinished, announcement.checkpoint)
        before = 0
        while True:
            reasons: list[str] = []
            for peer, source, address in holders:
                copy = _Source(source, address, job, announcement.checkpoint)
                try:
                    if address:
                        contact.trying(peer)
                    manifest = await _manifest(announcement, copy, unfinished, expected)
                    contact.answered(peer)
                    await _files(copy, manifest, unfinished, on_progress)
                    await asyncio.to_thread(folder.finish, unfinished, announcement.checkpoint)
                    return manifest
                except (NotFound, CheckpointRefused, Torn) as error:
                    if address:
                        contact.failed(peer, address, error.message)
                    reasons.append(f"{peer}: {error.message}")
            here, total = await asyncio.to_thread(_so_far, unfinished)
            if here - before < max(1, total / MOST_PARTS):
                raise NoHolder(announcement.checkpoint, tuple(reasons))
            before = here
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot write checkpoint {announcement.checkpoint} to {folder.root} ({error.strerror})",
            remedy="free some disk space, or give another folder",
        ) from error
    finally:
        if unfinished is not None:
            await asyncio.to_thread(shutil.rmtree, unfinished, ignore_errors=True)


def _so_far(unfinished: Path) -> tuple[int, int]:
    """The bytes of the checkpoint's files that are here, and of all of them (0 before the manifest is here)."""
    here = sum(path.stat().st_size for path in unfinished.iterdir() if path.name != MANIFEST)
    manifest = unfinished / MANIFEST
    return here, total_bytes(Manifest.from_json(manifest.read_bytes())) if manifest.exists() else 0


async def _manifest(
    announcement: Announcement, source: _Source, unfinished: Path, expected: Expected | None
) -> Manifest:
    received = bytearray()
    pieces = source.client.pull(source.address, source.job, source.checkpoint, MANIFEST, 0)
    async for piece in pieces:
        received += piece
        if len(received) > MOST_BYTES:
            raise Torn(f"its manifest has more than {MOST_BYTES:,} bytes")
    content = bytes(received)
    if digest_of(content) != announcement.digest:
        raise Torn("its manifest is not the one that was announced")
    manifest = await asyncio.to_thread(Manifest.from_json, content)
    why = disagreement(manifest, announcement) or (expected.objection(manifest) if expected else "")
    if why:
        raise CheckpointRefused(why, remedy="use another checkpoint")
    await asyncio.to_thread((unfinished / MANIFEST).write_bytes, content)
    return manifest


async def _files(
    source: _Source, manifest: Manifest, unfinished: Path, on_progress: Callable[[int, int], None]
) -> None:
    """Bring all files of a checkpoint. Raises the errors of ``_file``."""
    total, done = total_bytes(manifest), 0
    for entry in manifest.files:
        told = partial(_told, on_progress, done, total)
        await _file(source, entry, unfinished, told)
        done += entry.size_bytes


def _told(on_progress: Callable[[int, int], None], before: int, total: int, size: int) -> None:
    on_progress(before + size, total)


@dataclass(frozen=True, slots=True)
class _Source:
    """One holder's copy."""

    client: FileClient
    address: str
    job: str
    checkpoint: str

    async def bring(self, file: str, offset: int, into: FileSink) -> None:
        """Transfer a file from ``offset`` to its end."""
        where = self.address, self.job, self.checkpoint, file, offset
        if isinstance(self.client, BulkFileClient) and into.most_bytes >= BULK_BYTES:
            await self.client.fetch(*where, into)
            return
        pieces = self.client.pull(*where)
        async for piece in pieces:
            await into.take(piece)
            if into.came >= into.most_bytes:
                break
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()  # ends the call now, and not at a later garbage collection


async def _file(source: _Source, entry: FileEntry, unfinished: Path, told: Callable[[int], None]) -> None:
    """Transfer a file. The part that an earlier holder sent is kept, unless the digest of the whole is wrong.

    Raises Torn when this holder's own copy is wrong, CheckpointRefused when the transfer broke off.
    """
    path = unfinished / entry.name
    if path.exists():
        try:
            await _rest(source, entry, path, told)
            return
        except Torn:
            pass  # the earlier holder's part may be wrong: pull the whole file from this holder
    await _rest(source, entry, path, told)


def _digest_so_far(path: Path) -> tuple[Any, int]:
    with path.open("rb") as before:
        return read_into_digest(before)


async def _rest(source: _Source, entry: FileEntry, path: Path, told: Callable[[int], None]) -> None:
    """Append the missing part of a file. Raises Torn, and removes the file, when the digest of the whole is wrong."""
    digest, size = new_digest(), 0
    if path.exists():
        digest, size = await asyncio.to_thread(_digest_so_far, path)
    with path.open("ab", buffering=0) as file:
        if size < entry.size_bytes:
            # One byte more than announced is as wrong as one less.
            most = entry.size_bytes - size + 1
            await source.bring(entry.name, size, FileSink(file, digest, most, lambda came: told(size + came)))
        size = os.fstat(file.fileno()).st_size
    if size < entry.size_bytes:
        raise CheckpointRefused(f"{entry.name} broke off after {size} of {entry.size_bytes} bytes")
    if size != entry.size_bytes or digest.hexdigest() != entry.blake3:
        path.unlink()
        raise Torn(f"{entry.name} is not what was announced")
