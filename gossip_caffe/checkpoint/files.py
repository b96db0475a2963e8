"""Checkpoints on a disk: whole and verified, or not there.

A checkpoint is a folder. It is written under a temporary name, flushed to the disk, and renamed; so a name that is
there stands for a whole checkpoint, and what a crash leaves is swept away by the next start.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import AsyncIterator, Callable, Container, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.checkpoint.caffemodel import read_written, write_caffemodel
from gossip_caffe.checkpoint.digest import HashingReader, HashingWriter, digest_of, read_into_digest
from gossip_caffe.checkpoint.manifest import MANIFEST, MODEL, STATE, FileEntry, Manifest, is_plain
from gossip_caffe.errors import CheckpointRefused, EnvironmentProblem, NotFound
from gossip_caffe.gossip.average import all_finite
from gossip_caffe.solver.layout import WeightLayout

PIECE_BYTES = 1 << 20
_UNFINISHED = ".unfinished-"


class CheckpointFolder:
    """The checkpoints that one peer holds."""

    def __init__(self, root: Path, *, sweep: bool = True) -> None:
        """With ``sweep`` what a crash left is removed: only for whoever alone writes here."""
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        for leftover in root.glob(f"{_UNFINISHED}*") if sweep else ():
            shutil.rmtree(leftover, ignore_errors=True)

    def ids(self) -> list[str]:
        """Checkpoints that are there, oldest first by name; none where the disk cannot be read."""
        try:
            found = [path.name for path in self.root.iterdir() if (path / MANIFEST).is_file()]
        except OSError:
            return []
        return sorted(name for name in found if not name.startswith("."))

    def path(self, checkpoint: str, file: str = "") -> Path:
        """Where a checkpoint or one of its files is. Raises NotFound for names that lead elsewhere."""
        if not is_plain(checkpoint) or (file and not is_plain(file)):
            shown = (
                f"{checkpoint[:80]!r}/{file[:80]!r}"  # it goes back to whoever asked, as gRPC's own detail
            )
            raise NotFound(f"no checkpoint file {shown}", remedy="list the checkpoints")
        return self.root / checkpoint / file if file else self.root / checkpoint

    def write(
        self,
        manifest: Manifest,
        weights: NDArray[np.float32],
        state: Callable[[BinaryIO], None] | None = None,
    ) -> Manifest:
        """Write a checkpoint of flat weights; returns its manifest with the files in it.

        ``state`` writes the .solverstate. Raises EnvironmentProblem when the disk does not take it; nothing of it is
        left then.
        """
        layout = manifest.weight_layout()
        files = {MODEL: lambda file: write_caffemodel(file, layout, weights)}
        return self.write_files(manifest, {**files, STATE: state} if state is not None else files)

    def write_files(self, manifest: Manifest, files: Mapping[str, Callable[[BinaryIO], None]]) -> Manifest:
        """Write any files and the manifest that lists them, atomically."""
        unfinished = self.root / f"{_UNFINISHED}{manifest.checkpoint}"
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            unfinished.mkdir()
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
        """An empty folder in which a checkpoint is put together before ``finish``."""
        path = self.root / f"{_UNFINISHED}{checkpoint}"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def finish(self, unfinished: Path, checkpoint: str) -> None:
        """Give a folder that is whole its name. What came from elsewhere is durable only after ``flush``."""
        target = self.path(checkpoint)
        _flush(unfinished)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        unfinished.rename(target)
        _flush(self.root)

    def flush(self, checkpoint: str) -> None:
        """Bring a copy from elsewhere to the disk, before anybody is told that it is held here.

        Whoever only loads it need not wait for that: what a power cut leaves is verified when it is read. Raises
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
        """The manifest of a checkpoint that is there. Raises NotFound or CheckpointRefused."""
        path = self.path(checkpoint, MANIFEST)
        try:
            return Manifest.from_json(path.read_bytes())
        except FileNotFoundError:
            raise NotFound(
                f"there is no checkpoint {checkpoint!r} in {self.root}", remedy="list them"
            ) from None
        except OSError as error:
            raise self._unreadable(checkpoint, MANIFEST, error) from None

    def load(
        self, checkpoint: str, *, job_fingerprint: str, layout_fingerprint: str
    ) -> tuple[Manifest, NDArray[np.float32]]:
        """Verify a checkpoint whole and return its weights. Raises NotFound or CheckpointRefused with the reason."""
        manifest = self.manifest(checkpoint)
        if manifest.checkpoint != checkpoint:
            raise self._refused(checkpoint, f"its manifest is that of {manifest.checkpoint}")
        if manifest.job_fingerprint != job_fingerprint:
            raise self._refused(checkpoint, "it is of another job")
        layout = manifest.weight_layout()
        if layout.fingerprint != layout_fingerprint:
            raise self._refused(checkpoint, "it is of another net")
        weights: NDArray[np.float32] | None = None
        for entry in manifest.files:
            if entry.name == MODEL:
                weights = self._weights(checkpoint, entry, layout)
            else:
                self._check(checkpoint, entry)
        if weights is None:
            raise self._refused(checkpoint, f"it has no {MODEL}")
        if not all_finite(weights):
            raise self._refused(checkpoint, "its weights hold NaN or Inf")
        return manifest, weights

    def damage(self, checkpoint: str, digest: str) -> str:
        """What is wrong with a copy that is there, "" when it is just what was announced with ``digest``."""
        try:
            manifest = self.manifest(checkpoint)
            for entry in manifest.files:
                self._check(checkpoint, entry)
        except (CheckpointRefused, NotFound) as error:
            return error.message
        return "" if manifest.digest == digest else "its manifest is not the one that was announced"

    def remove(self, checkpoint: str) -> None:
        """Remove a copy, if the disk lets it go; what is left of it after a crash has no checkpoint's name."""
        leftover = self.root / f"{_UNFINISHED}{checkpoint}"
        shutil.rmtree(leftover, ignore_errors=True)
        try:
            self.path(checkpoint).rename(leftover)
        except OSError:
            return
        shutil.rmtree(leftover, ignore_errors=True)

    def _weights(self, checkpoint: str, entry: FileEntry, layout: WeightLayout) -> NDArray[np.float32]:
        """The model's weights, verified as they are read: what is hashed is what is returned."""
        try:
            with self.path(checkpoint, entry.name).open("rb", buffering=0) as file:
                size_bytes = os.fstat(file.fileno()).st_size
                if size_bytes != entry.size_bytes or size_bytes < 4 * layout.size:
                    self._check(checkpoint, entry)
                    raise self._refused(checkpoint, f"{entry.name} is too short for its weights")
                hashing = HashingReader(file)
                weights = read_written(hashing, layout)
        except OSError as error:
            raise self._unreadable(checkpoint, entry.name, error) from None
        self._compare(checkpoint, entry, hashing.size_bytes, hashing.digest.hexdigest())
        if weights is None:
            raise self._refused(checkpoint, f"{entry.name} has not the form in which checkpoints are written")
        return weights

    def _check(self, checkpoint: str, entry: FileEntry) -> None:
        """Verify a file that is not needed in memory."""
        try:
            with self.path(checkpoint, entry.name).open("rb") as file:
                digest, size_bytes = read_into_digest(file)
        except OSError as error:
            raise self._unreadable(checkpoint, entry.name, error) from None
        self._compare(checkpoint, entry, size_bytes, digest.hexdigest())

    def _compare(self, checkpoint: str, entry: FileEntry, size_bytes: int, digest: str) -> None:
        if size_bytes != entry.size_bytes:
            raise self._refused(checkpoint, f"{entry.name} has {size_bytes} bytes, not {entry.size_bytes}")
        if digest != entry.blake3:
            raise self._refused(checkpoint, f"{entry.name} is not what was written (BLAKE3 differs)")

    def open_file(self, checkpoint: str, file: str, offset: int) -> tuple[int, AsyncIterator[bytes]]:
        """Size of a file in bytes, and its pieces from an offset on, for others to pull. Raises NotFound."""
        path = self.path(checkpoint, file)
        try:
            found = path.stat()
        except OSError:
            found = None
        if found is None or not stat.S_ISREG(found.st_mode):
            raise NotFound(f"no {file} of checkpoint {checkpoint} here", remedy="ask another holder")
        return found.st_size, _pieces(path, offset)

    def adopt(self, checkpoint: str, digest: str) -> bool:
        """Take a copy over from another peer's folder beside this one, if one has just that; False when none has.

        It is verified when it is loaded, as any other.
        """
        try:
            siblings = sorted(self.root.parent.iterdir())
        except OSError:
            return False
        for sibling in siblings:
            try:
                if sibling != self.root and self._adopted(sibling / checkpoint, digest):
                    return True
            except OSError:
                continue  # none is there, its owner may just be removing it, or its disk is broken
        return False

    def _adopted(self, theirs: Path, digest: str) -> bool:
        if digest_of((theirs / MANIFEST).read_bytes()) != digest:
            return False
        unfinished = self.unfinished(theirs.name)
        try:
            shutil.copytree(theirs, unfinished, dirs_exist_ok=True)
            self.finish(unfinished, theirs.name)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return True

    def prune(self, job_identity: str, kept: Container[str]) -> list[str]:
        """Remove the copies of one job that are not ``kept``, and none of another job; returns what was removed."""
        old = [checkpoint for checkpoint in self.ids() if checkpoint not in kept]
        removed = [checkpoint for checkpoint in old if self._is_of(checkpoint, job_identity)]
        for checkpoint in removed:
            self.remove(checkpoint)
        return removed

    def _is_of(self, checkpoint: str, job_identity: str) -> bool:
        try:
            return self.manifest(checkpoint).job_identity == job_identity
        except (NotFound, CheckpointRefused):
            return False  # nobody knows whose it is

    def _unreadable(self, checkpoint: str, file: str, error: OSError) -> CheckpointRefused:
        missing = isinstance(error, FileNotFoundError)
        return self._refused(
            checkpoint, f"{file} is missing" if missing else f"{file} cannot be read ({error.strerror})"
        )

    def _refused(self, checkpoint: str, why: str) -> CheckpointRefused:
        return CheckpointRefused(f"checkpoint {checkpoint}: {why}", remedy="use another checkpoint")


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
        os.fsync(fd)
    finally:
        os.close(fd)


async def _pieces(path: Path, offset: int) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while piece := file.read(PIECE_BYTES):
            yield piece
