"""How a net's weights lie in one flat vector: what every peer of a job must agree on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
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


@dataclass(frozen=True)
class WeightLayout:
    """All parameter blobs of a net, in its order; one that layers share appears once."""

    blobs: tuple[BlobSpec, ...]

    @classmethod
    def of(cls, shapes: Sequence[tuple[str, int, tuple[int, ...]]]) -> WeightLayout:
        """The layout of blobs given as (layer, index, shape), one after the other."""
        blobs, offset = [], 0
        for layer, index, shape in shapes:
            blobs.append(BlobSpec(layer, index, tuple(shape), offset))
            offset += blobs[-1].size
        return cls(tuple(blobs))

    @cached_property
    def size(self) -> int:
        """Length of the flat vector, in float32 values."""
        return sum(blob.size for blob in self.blobs)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names and shapes: two nets with one fingerprint can be averaged."""
        described = json.dumps([[blob.layer, blob.index, list(blob.shape)] for blob in self.blobs])
        return hashlib.sha256(described.encode()).hexdigest()

    def split(self, flat: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Views of the flat vector, one per blob, in its shape."""
        return [flat[blob.offset : blob.offset + blob.size].reshape(blob.shape) for blob in self.blobs]

    def to_record(self) -> list[Any]:
        """The layout as JSON takes it."""
        return [[blob.layer, blob.index, list(blob.shape)] for blob in self.blobs]

    @classmethod
    def from_record(cls, record: Sequence[Any]) -> WeightLayout:
        """Read ``to_record``; raises ValueError when it is none."""
        try:
            return cls.of(
                [(str(layer), int(index), tuple(map(int, shape))) for layer, index, shape in record]
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"not a weight layout: {error}") from error
