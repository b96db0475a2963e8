"""Checkpoints on a disk: each is whole and verified, or absent.

A checkpoint is a folder. It is written under a temporary name, flushed to the disk, and renamed. A final name
therefore always means a whole checkpoint. The next start removes the temporary folders that a crash left.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from collections.abc import AsyncIterator, Callable, Container, Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.checkpoint.formats.caffemodel import write_caffemodel
from gossip_caffe.checkpoint.formats.digest import HashingWriter, digest_of
from gossip_caffe.checkpoint.manifest import MANIFEST, MODEL, STATE, FileEntry, Manifest
from gossip_caffe.checkpoint.verifying import Verifier, read_manifest
from gossip_caffe.errors import CheckpointRefused, EnvironmentProblem, NotFound
from gossip_caffe.plain import is_plain, shown
from gossip_caffe.system.folders import flush, folder_within

INSTEAD = "give another --run-dir"
PIECE_BYTES = 1 << 20
_UNFINISHED = ".unfinished-"


class CheckpointFolder:
    """The checkpoints that one peer holds, one folder each."""

    def __init__(self, root: Path, *, own: bool = True) -> None:
        """``own``: only this process writes here, and other users must not read it.

        Raises EnvironmentProblem for a folder that cannot be created. For an ``own`` folder also if it belongs to
        another user, if other users may write to it, and if it is a link.
        """
        self.root = root
        self._own = own
        if own:
            folder_within(root, INSTEAD)
        else:
            _made(root)

    def sweep(self) -> None:
        """Remove temporary folders that a crash left.

        Only the owner of the folder may call it: another process may be writing.
        """
        for leftover in self.root.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    @property
    def _mode(self) -> int:
        """The mode of the folders that are created here, before the umask."""
        return 0o700 if self._own else 0o777

    def ids(self) -> list[str]:
        """The checkpoints in the folder, sorted by id, oldest first; empty where the disk cannot be read."""
        try:
            found = [path.name for path in self.root.iterdir() if (path / MANIFEST).is_file()]
        except OSError:
            return []
        return sorted(name for name in found if not name.startswith("."))

    def path(self, checkpoint: str, file: str = "") -> Path:
        """The path of a checkpoint or of one of its files. Raises NotFound for an invalid name."""
        if not is_plain(checkpoint) or (file and not is_plain(file)):
            # The message is returned to the requesting peer, as gRPC's own detail.
            raise NotFound(
                f"no checkpoint file {shown(checkpoint)}/{shown(file)}", remedy="list the checkpoints"
            )
        return self.root / checkpoint / file if file else self.root / checkpoint

    def write(
        self,
        manifest: Manifest,
        weights: NDArray[np.float32],
        state: Callable[[BinaryIO], None] | None = None,
    ) -> Manifest:
        """Write a checkpoint of flat weights, shape (layout.size,). Returns its manifest with the files listed.

        ``state`` writes the .solverstate. Raises EnvironmentProblem when the disk fails; no part of the checkpoint is
        left then.
        """
        layout = manifest.weight_layout()
        files = {MODEL: lambda file: write_caffemodel(file, layout, weights)}
        return self.write_files(manifest, {**files, STATE: state} if state is not None else files)

    def write_files(self, manifest: Manifest, files: Mapping[str, Callable[[BinaryIO], None]]) -> Manifest:
        """Write files and the manifest that lists them, atomically. Returns that manifest."""
        unfinished = self._unfinished(manifest.checkpoint)
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            unfinished.mkdir(mode=self._mode)
            entries = [_write(unfinished / name, write) for name, write in files.items()]
            manifest = manifest.with_files(entries)
            _write(unfinished / MANIFEST, lambda file: _put(file, manifest.to_json()))
            _flush_files(unfinished)
            self.finish(unfinished, manifest.checkpoint)
        except OSError as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise EnvironmentProblem(
                f"cannot write checkpoint {manifest.checkpoint} to {self.root} ({error.strerror})",
                remedy="free some disk space, or give another --run-dir",
            ) from error
        return manifest

    def unfinished(self, checkpoint: str) -> Path:
        """An empty temporary folder in which to build a checkpoint before ``finish``.

        Raises NotFound for an invalid name.
        """
        path = self._unfinished(checkpoint)
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True, mode=self._mode)
        return path

    def _unfinished(self, checkpoint: str) -> Path:
        """The path of the temporary folder.

        Raises NotFound for an invalid name: the caller removes what exists there.
        """
        path = self.path(checkpoint)
        return path.with_name(f"{_UNFINISHED}{checkpoint}")

    def finish(self, unfinished: Path, checkpoint: str) -> None:
        """Give a complete folder its final name. A copy that was pulled is durable only after ``flush``."""
        target = self.path(checkpoint)
        if self._own:
            for file in unfinished.iterdir():
                if not file.is_symlink():
                    file.chmod(0o600)
        _flush(unfinished)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        unfinished.rename(target)
        _flush(self.root)

    def flush(self, checkpoint: str) -> None:
        """Flush a pulled copy to the disk, before this peer is announced as its holder.

        Loading a copy does not need it: what a power failure leaves is verified when it is read. Raises
        EnvironmentProblem.
        """
        try:
            _flush_files(self.path(checkpoint))
        except OSError as error:
            raise EnvironmentProblem(
                f"cannot keep checkpoint {checkpoint} in {self.root} ({error.strerror})",
                remedy="free some disk space, or give another --run-dir",
            ) from error

    def manifest(self, checkpoint: str) -> Manifest:
        """The manifest of a checkpoint in the folder. Raises NotFound or CheckpointRefused."""
        path = self.path(checkpoint, MANIFEST)
        try:
            return Manifest.from_json(read_manifest(path))
        except FileNotFoundError:
            raise NotFound(
                f"there is no checkpoint {checkpoint!r} in {self.root}", remedy="list them"
            ) from None
        except OSError as error:
            raise self._verifier(checkpoint).unreadable(MANIFEST, error) from None

    def load(
        self, checkpoint: str, *, job_fingerprint: str, layout_fingerprint: str
    ) -> tuple[Manifest, NDArray[np.float32]]:
        """Verify a whole checkpoint.

        Returns its manifest and weights; raises NotFound or CheckpointRefused with the reason.
        """
        manifest = self.manifest(checkpoint)
        weights = self._verifier(checkpoint).load(
            manifest, job_fingerprint=job_fingerprint, layout_fingerprint=layout_fingerprint
        )
        return manifest, weights

    def damage(self, checkpoint: str, digest: str) -> str:
        """The damage of a copy in the folder; "" when it is exactly the checkpoint announced with ``digest``."""
        try:
            manifest = self.manifest(checkpoint)
            for entry in manifest.files:
                self._verifier(checkpoint).check(entry)
        except (CheckpointRefused, NotFound) as error:
            return error.message
        return "" if manifest.digest == digest else "its manifest is not the one that was announced"

    def remove(self, checkpoint: str) -> None:
        """Remove a copy, if the disk permits it. After a crash in between, the rest has a temporary name.

        Raises NotFound for an invalid name.
        """
        leftover = self._unfinished(checkpoint)
        shutil.rmtree(leftover, ignore_errors=True)
        try:
            self.path(checkpoint).rename(leftover)
        except OSError:
            return
        shutil.rmtree(leftover, ignore_errors=True)

    def open_file(self, checkpoint: str, file: str, offset: int) -> tuple[int, AsyncIterator[bytes]]:
        """The size of a file in bytes, and its content from an offset on in pieces, for peers that pull it.

        Raises NotFound.
        """
        path = self.path(checkpoint, file)
        try:
            found = path.stat()
        except OSError:
            found = None
        if found is None or not stat.S_ISREG(found.st_mode):
            raise NotFound(f"no {file} of checkpoint {checkpoint} here", remedy="ask another holder")
        return found.st_size, _pieces(path, offset)

    def adopt(self, checkpoint: str, digest: str, objection: Callable[[Manifest], str] | None = None) -> bool:
        """Copy a checkpoint from another peer's folder beside this one.

        Returns False when none has exactly that checkpoint.

        ``objection``: returns the reason why a manifest's files must not be copied, or "". The copy is verified when
        it is loaded, like any other.
        """
        if not is_plain(checkpoint):
            return False
        try:
            siblings = sorted(self.root.parent.iterdir())
        except OSError:
            return False
        for sibling in siblings:
            try:
                if sibling != self.root and self._adopted(sibling / checkpoint, digest, objection):
                    return True
            except OSError:
                continue  # it is absent, or its owner is removing it, or the disk fails
        return False

    def _adopted(self, theirs: Path, digest: str, objection: Callable[[Manifest], str] | None) -> bool:
        content = read_manifest(theirs / MANIFEST)
        if digest_of(content) != digest:
            return False
        try:
            manifest = Manifest.from_json(content)
        except CheckpointRefused:
            return False
        if manifest.checkpoint != theirs.name or (objection is not None and objection(manifest)):
            return False
        unfinished = self.unfinished(theirs.name)
        try:
            for name in (MANIFEST, *(entry.name for entry in manifest.files)):
                shutil.copy(theirs / name, unfinished / name, follow_symlinks=False)
            self.finish(unfinished, theirs.name)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return True

    def of_job(self, job_identity: str) -> list[str]:
        """The copies of one job, found by their manifests; sorted by id, oldest first."""
        return [checkpoint for checkpoint in self.ids() if self._is_of(checkpoint, job_identity)]

    def set_aside(self, checkpoint: str) -> None:
        """Rename a copy, to make room for another of the same id: its digest is appended to its name."""
        path = self.path(checkpoint)
        path.rename(self.path(f"{checkpoint}.{self.manifest(checkpoint).digest[:8]}"))

    def prune(self, job_identity: str, kept: Container[str]) -> list[str]:
        """Remove the copies of one job that are not ``kept``. Returns the removed ones; copies of other jobs stay."""
        removed = [checkpoint for checkpoint in self.of_job(job_identity) if checkpoint not in kept]
        for checkpoint in removed:
            self.remove(checkpoint)
        return removed

    def _is_of(self, checkpoint: str, job_identity: str) -> bool:
        try:
            return self.manifest(checkpoint).job_identity == job_identity
        except (NotFound, CheckpointRefused):
            return False  # its job is unknown

    def _verifier(self, checkpoint: str) -> Verifier:
        return Verifier(checkpoint, partial(self.path, checkpoint))


def _made(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot use {root} ({error.strerror})", remedy="give another folder"
        ) from None


def _write(path: Path, write: Callable[[BinaryIO], None]) -> FileEntry:
    with path.open("wb") as file:
        hashing = HashingWriter(file)
        write(hashing)  # type: ignore[arg-type]
    return FileEntry(path.name, hashing.size_bytes, hashing.digest.hexdigest())


def _put(file: BinaryIO, content: bytes) -> None:
    file.write(content)


def _flush_files(folder: Path) -> None:
    for file in folder.iterdir():
        _flush(file)


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        flush(fd)
    finally:
        os.close(fd)


async def _pieces(path: Path, offset: int) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as file:
        file.seek(offset)
        while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
            yield piece
