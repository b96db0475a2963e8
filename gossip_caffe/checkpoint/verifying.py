"""Verification of a checkpoint's copy on a disk: it is read whole and verified, or refused with the reason."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.checkpoint.formats.caffemodel import read_written
from gossip_caffe.checkpoint.formats.digest import HashingReader, read_into_digest
from gossip_caffe.checkpoint.manifest import MODEL, MOST_BYTES, FileEntry, Manifest
from gossip_caffe.errors import CheckpointRefused
from gossip_caffe.gossip.averaging.average import all_finite
from gossip_caffe.solver.engines.layout import WeightLayout


def read_manifest(manifest: Path) -> bytes:
    """The bytes of a manifest. Raises OSError, also for a file over the size limit."""
    if manifest.stat().st_size > MOST_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return manifest.read_bytes()


class Verifier:
    """Verifies one copy. ``path`` returns the path of a file of it, and raises NotFound for an invalid name."""

    def __init__(self, checkpoint: str, path: Callable[[str], Path]) -> None:
        self._checkpoint = checkpoint
        self._path = path

    def load(
        self, manifest: Manifest, *, job_fingerprint: str, layout_fingerprint: str
    ) -> NDArray[np.float32]:
        """Verify the whole copy. Returns its weights, flat float32. Raises NotFound or CheckpointRefused."""
        if manifest.checkpoint != self._checkpoint:
            raise self.refused(f"its manifest is that of {manifest.checkpoint}")
        if manifest.job_fingerprint != job_fingerprint:
            raise self.refused("it is of another job")
        layout = manifest.weight_layout()
        if layout.fingerprint != layout_fingerprint:
            raise self.refused("it is of another net")
        weights: NDArray[np.float32] | None = None
        for entry in manifest.files:
            if entry.name == MODEL:
                weights = self._weights(entry, layout)
            else:
                self.check(entry)
        if weights is None:
            raise self.refused(f"it has no {MODEL}")
        if not all_finite(weights):
            raise self.refused("its weights hold NaN or Inf")
        return weights

    def _weights(self, entry: FileEntry, layout: WeightLayout) -> NDArray[np.float32]:
        """The model's weights, hashed while they are read: the returned bytes are exactly the hashed bytes."""
        for shape_first in (False, True):  # the second is the format of an older version
            weights = self._read(entry, layout, shape_first=shape_first)
            if weights is not None:
                return weights
        raise self.refused(f"{entry.name} does not have the format of a checkpoint's model")

    def _read(
        self, entry: FileEntry, layout: WeightLayout, *, shape_first: bool
    ) -> NDArray[np.float32] | None:
        try:
            with self._path(entry.name).open("rb", buffering=0) as file:
                size_bytes = os.fstat(file.fileno()).st_size
                if size_bytes != entry.size_bytes or size_bytes < 4 * layout.size:
                    self.check(entry)
                    raise self.refused(f"{entry.name} is too short for its weights")
                hashing = HashingReader(file)
                weights = read_written(hashing, layout, shape_first=shape_first)
        except OSError as error:
            raise self.unreadable(entry.name, error) from None
        self._compare(entry, hashing.size_bytes, hashing.digest.hexdigest())
        return weights

    def check(self, entry: FileEntry) -> None:
        """Verify a file that is not needed in memory."""
        try:
            with self._path(entry.name).open("rb") as file:
                digest, size_bytes = read_into_digest(file)
        except OSError as error:
            raise self.unreadable(entry.name, error) from None
        self._compare(entry, size_bytes, digest.hexdigest())

    def _compare(self, entry: FileEntry, size_bytes: int, digest: str) -> None:
        if size_bytes != entry.size_bytes:
            raise self.refused(f"{entry.name} has {size_bytes} bytes, not {entry.size_bytes}")
        if digest != entry.blake3:
            raise self.refused(f"{entry.name} differs from the written file (BLAKE3 differs)")

    def unreadable(self, file: str, error: OSError) -> CheckpointRefused:
        """The error for a copy with a file that the disk cannot read."""
        missing = isinstance(error, FileNotFoundError)
        return self.refused(f"{file} is missing" if missing else f"{file} cannot be read ({error.strerror})")

    def refused(self, why: str) -> CheckpointRefused:
        """The error that refuses this copy, with the reason."""
        return CheckpointRefused(f"checkpoint {self._checkpoint}: {why}", remedy="use another checkpoint")
