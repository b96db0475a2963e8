"""The layout of a net's weights in one flat vector. All peers of a job must have the same layout."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class BlobSpec:
    """One parameter blob: number ``index`` of ``layer``, from value ``offset`` of the flat vector on."""

    layer: str
    index: int
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """The number of values."""
        return math.prod(self.shape)


Entry = tuple[str, int, tuple[int, ...]] | tuple[str, int, tuple[int, ...], int]
"""(layer, index, shape) of a blob. A shared blob has a fourth value: the number of the earlier blob that it shares."""


@dataclass(frozen=True)
class WeightLayout:
    """All parameter blobs of a net. ``blobs`` has each blob once, under the first layer that uses it.

    ``aliases``: the parameters of further layers that share a blob; their ``offset`` is that blob's. ``frozen``: the
    number of blobs, the last ones, that no solver ever changes: snapshots and checkpoints contain them, exchanges do
    not. ``structure``: the net in a .caffemodel without its blobs; b"" if unknown. It does not count in comparisons.
    """

    blobs: tuple[BlobSpec, ...]
    aliases: tuple[BlobSpec, ...] = ()
    frozen: int = 0
    structure: bytes = field(default=b"", compare=False, repr=False)

    @classmethod
    def of(cls, entries: Sequence[Entry], frozen: int = 0) -> WeightLayout:
        """Make the layout of these blobs, one after the other.

        Raises ValueError when an entry shares a blob that is missing or has another size.
        """
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
        """The entries from which ``of`` makes this layout."""
        position = {blob.offset: index for index, blob in reversed(list(enumerate(self.blobs)))}
        return (
            *((blob.layer, blob.index, blob.shape) for blob in self.blobs),
            *((blob.layer, blob.index, blob.shape, position[blob.offset]) for blob in self.aliases),
        )

    @cached_property
    def size(self) -> int:
        """The length of the flat vector, in float32 values."""
        return sum(blob.size for blob in self.blobs)

    @cached_property
    def exchanged(self) -> int:
        """The number of values, from the first on, that are exchanged: all but those of frozen blobs."""
        return sum(self.exchanged_blobs)

    @cached_property
    def exchanged_blobs(self) -> tuple[int, ...]:
        """The sizes of the blobs that are exchanged, in values and in order."""
        return tuple(blob.size for blob in self.blobs[: len(self.blobs) - self.frozen])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names, shapes and sharing: nets with the same fingerprint can be averaged."""
        return hashlib.sha256(json.dumps(self.entries).encode()).hexdigest()

    def split(self, flat: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return views of the flat vector, one for each of ``blobs``, in the blob's shape."""
        return [view(flat, blob) for blob in self.blobs]

    def to_record(self) -> dict[str, Any]:
        """Return the layout as a JSON object."""
        structure = base64.b64encode(self.structure).decode()
        return {"entries": self.entries, "frozen": self.frozen, "structure": structure}

    @classmethod
    def from_record(cls, record: Any) -> WeightLayout:
        """Read the result of ``to_record``. Raises ValueError when ``record`` is not one."""
        try:
            layout = cls.of(read_entries(record["entries"]), int(record["frozen"]))
            return replace(layout, structure=base64.b64decode(record["structure"]))
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"not a weight layout: {error}") from error


def view(flat: NDArray[np.float32], blob: BlobSpec) -> NDArray[np.float32]:
    """Return a view of one blob of a flat vector, in the blob's shape."""
    return flat[blob.offset : blob.offset + blob.size].reshape(blob.shape)


def read_entries(record: Iterable[Any]) -> tuple[Entry, ...]:
    """Read entries from their JSON form. Raises TypeError or ValueError when ``record`` is not one."""
    entries: list[Entry] = []
    for layer, index, shape, *meant in record:
        name, number, dims = str(layer), int(index), tuple(map(int, shape))
        if min(dims, default=0) < 0:
            raise ValueError(f"blob {number} of {name!r:.80} has the shape {dims}")
        entries.append((name, number, dims, int(meant[0])) if meant else (name, number, dims))
    return tuple(entries)
