"""Caffe's BlobProto, written by hand: the floats' own bytes follow a short head, so nothing is copied twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.protofields import fields, head, varint

# Field numbers of caffe.proto.
_BLOB_DATA, _BLOB_SHAPE, _SHAPE_DIM = 5, 7, 1


def blob_head(field: int, shape: Sequence[int], size: int) -> bytes:
    """Everything of a blob, as field ``field`` of a message, but its ``size`` floats, which follow."""
    dims = b"".join(map(varint, shape))
    packed = head(_SHAPE_DIM, len(dims)) + dims
    lead = head(_BLOB_SHAPE, len(packed)) + packed + head(_BLOB_DATA, 4 * size)
    return head(field, len(lead) + 4 * size) + lead


def float_bytes(values: NDArray[np.float32]) -> memoryview:
    """The floats as they stand in a file."""
    return values.astype("<f4", copy=False).reshape(-1).view(np.uint8).data


def floats_of(blob: memoryview) -> NDArray[np.float32]:
    """The floats of a blob, flat, as a view of its bytes. Raises ValueError when it is torn."""
    pieces = [
        np.frombuffer(value, "<f4")
        for field, _, value in fields(blob)
        if field == _BLOB_DATA and not isinstance(value, int)
    ]
    return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, "<f4"), *pieces])
