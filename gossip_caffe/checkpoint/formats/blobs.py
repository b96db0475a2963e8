"""Caffe's BlobProto, encoded without a protobuf library: the floats' own bytes between a short header and trailer.

So the floats are not copied twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.protofields import fields, head, varint

# Field numbers of caffe.proto.
BLOB_DATA, _BLOB_SHAPE, _SHAPE_DIM = 5, 7, 1


def blob_ends(
    field: int, shape: Sequence[int], size: int, *, shape_first: bool = False
) -> tuple[bytes, bytes]:
    """The bytes before and after the ``size`` floats of a blob that is field ``field`` of a message.

    Caffe writes the shape after the floats. ``shape_first``: before them, as older versions of this program did.
    """
    dims = b"".join(map(varint, shape))
    packed = head(_SHAPE_DIM, len(dims)) + dims
    tail = head(_BLOB_SHAPE, len(packed)) + packed
    lead = head(BLOB_DATA, 4 * size)
    if shape_first:
        lead, tail = tail + lead, b""
    return head(field, len(lead) + 4 * size + len(tail)) + lead, tail


def float_bytes(values: NDArray[np.float32]) -> memoryview:
    """The floats' bytes as a file holds them (little-endian)."""
    return values.astype("<f4", copy=False).reshape(-1).view(np.uint8).data


def floats_of(blob: memoryview) -> NDArray[np.float32]:
    """The floats of a blob, flat, as a view of its bytes. Raises ValueError when it is torn."""
    pieces = [
        np.frombuffer(value, "<f4")
        for field, _, value in fields(blob)
        if field == BLOB_DATA and not isinstance(value, int)
    ]
    return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, "<f4"), *pieces])
