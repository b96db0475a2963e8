"""How a net's weights lie in one flat vector: what every peer of a job must agree on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class BlobSpec:
    """One parameter blob: the ``index``-th of ``layer``, at ``offset`` (in values) of the flat vector."""

    layer: str
    index: int
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)


Entry = tuple[str, int, tuple[int, ...]] | tuple[str, int, tuple[int, ...], int]
"""(layer, index, shape) of a blob; and fourth, for one that is shared, which of the blobs before it is meant."""


@dataclass(frozen=True)
class WeightLayout:
    """All parameter blobs of a net: each once in ``blobs``, under the first layer that has it.

    ``aliases``: the same memory as parameters of further layers (their ``offset`` says which). The last ``frozen``
    blobs are those that no solver ever changes: they are in snapshots and checkpoints, and are not exchanged.
    """

    blobs: tuple[BlobSpec, ...]
    aliases: tuple[BlobSpec, ...] = ()
    frozen: int = 0

    @classmethod
    def of(cls, entries: Sequence[Entry], frozen: int = 0) -> WeightLayout:
        """The layout of blobs one after the other. Raises ValueError when an entry means a blob that is not there."""
        blobs: list[BlobSpec] = []
        aliases: list[BlobSpec] = []
        offset = 0
        for layer, index, shape, *meant in entries:
            if not meant:
                blobs.append(BlobSpec(layer, index, tuple(shape), offset))
                offset += blobs[-1].size
            elif 0 <= meant[0] < len(blobs) and blobs[meant[0]].size == math.prod(shape):
                aliases.append(BlobSpec(layer, index, tuple(shape), blobs[meant[0]].offset))
            else:
                raise ValueError(f"blob {index} of {layer!r} shares blob {meant[0]}, which is not like it")
        if not 0 <= frozen <= len(blobs):
            raise ValueError(f"{frozen} of {len(blobs)} blobs are frozen")
        return cls(tuple(blobs), tuple(aliases), frozen)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What ``of`` makes it from."""
        position = {blob.offset: index for index, blob in reversed(list(enumerate(self.blobs)))}
        return (
            *((blob.layer, blob.index, blob.shape) for blob in self.blobs),
            *((blob.layer, blob.index, blob.shape, position[blob.offset]) for blob in self.aliases),
        )

    @cached_property
    def size(self) -> int:
        """Length of the flat vector, in float32 values."""
        return sum(blob.size for blob in self.blobs)

    @cached_property
    def exchanged(self) -> int:
        """How many of its values, from the first, are exchanged: all but those of frozen blobs."""
        return sum(self.exchanged_blobs)

    @cached_property
    def exchanged_blobs(self) -> tuple[int, ...]:
        """The sizes of the blobs that are exchanged, in values and in order."""
        return tuple(blob.size for blob in self.blobs[: len(self.blobs) - self.frozen])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names, shapes and sharing: two nets with one fingerprint can be averaged."""
        return hashlib.sha256(json.dumps(self.entries).encode()).hexdigest()

    def split(self, flat: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Views of the flat vector, one for each of ``blobs``, in its shape."""
        return [view(flat, blob) for blob in self.blobs]

    def to_record(self) -> dict[str, Any]:
        """The layout as JSON takes it."""
        return {"entries": self.entries, "frozen": self.frozen}

    @classmethod
    def from_record(cls, record: Any) -> WeightLayout:
        """Read ``to_record``; raises ValueError when it is none."""
        try:
            return cls.of(read_entries(record["entries"]), int(record["frozen"]))
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"not a weight layout: {error}") from error


def view(flat: NDArray[np.float32], blob: BlobSpec) -> NDArray[np.float32]:
    """One blob of a flat vector, in its shape; shares its memory."""
    return flat[blob.offset : blob.offset + blob.size].reshape(blob.shape)


def read_entries(record: Iterable[Any]) -> tuple[Entry, ...]:
    """Entries from their JSON form. Raises TypeError or ValueError when they are none."""
    entries: list[Entry] = []
    for layer, index, shape, *meant in record:
        name, number, dims = str(layer), int(index), tuple(map(int, shape))
        if min(dims, default=0) < 0:
            raise ValueError(f"blob {number} of {name!r:.80} has the shape {dims}")
        entries.append((name, number, dims, int(meant[0])) if meant else (name, number, dims))
    return tuple(entries)
