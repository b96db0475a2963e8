"""Weights as Caffe stores them: a binary NetParameter with one layer for each that has parameters.

Blobs that layers share are written for each of them, as Caffe does: it refuses a layer of which some are missing.

Written by hand, field by field: a packed field of floats is its length and the floats' own bytes, so nothing is copied
twice and plain Caffe loads the result (``caffe.Net(prototxt, file, TEST)``).
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import BinaryIO

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from gossip_caffe.errors import CheckpointRefused
from gossip_caffe.solver.layout import BlobSpec, WeightLayout, view
from gossip_caffe.wire import caffe_wire_pb2 as wire

Flat = NDArray[np.float32]

# Field numbers of caffe.proto, each with wire type 2 (length-delimited).
_NET_LAYER, _LAYER_NAME, _LAYER_BLOBS, _BLOB_DATA, _BLOB_SHAPE, _SHAPE_DIM = 100, 1, 7, 5, 7, 1


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _head(field: int, length: int) -> bytes:
    return _varint(field << 3 | 2) + _varint(length)


def _pieces(layout: WeightLayout, weights: Flat) -> Iterator[bytes | memoryview]:
    layers: dict[str, list[BlobSpec]] = {}
    for blob in (*layout.blobs, *layout.aliases):
        layers.setdefault(blob.layer, []).append(blob)
    for layer, blobs in layers.items():
        heads: list[tuple[bytes, Flat]] = []
        for blob in sorted(blobs, key=attrgetter("index")):
            dims = b"".join(map(_varint, blob.shape))
            shape = _head(_SHAPE_DIM, len(dims)) + dims
            lead = _head(_BLOB_SHAPE, len(shape)) + shape + _head(_BLOB_DATA, 4 * blob.size)
            heads.append((_head(_LAYER_BLOBS, len(lead) + 4 * blob.size) + lead, view(weights, blob)))
        name = layer.encode()
        name_field = _head(_LAYER_NAME, len(name)) + name
        length = len(name_field) + sum(len(head) + 4 * values.size for head, values in heads)
        yield _head(_NET_LAYER, length) + name_field
        for head, values in heads:
            yield head
            yield values.astype("<f4", copy=False).reshape(-1).view(np.uint8).data


def write_caffemodel(file: BinaryIO, layout: WeightLayout, weights: Flat) -> None:
    """Write flat weights, shape (layout.size,), as a .caffemodel."""
    for piece in _pieces(layout, weights):
        file.write(piece)


def read_caffemodel(content: bytes, layout: WeightLayout) -> Flat:
    """Flat weights from a .caffemodel. Raises CheckpointRefused when it is torn or of another net."""
    try:
        net = wire.NetParameter.FromString(content)
    except DecodeError:
        raise CheckpointRefused("the .caffemodel cannot be parsed", remedy="use another checkpoint") from None
    found = {(layer.name, index): blob for layer in net.layer for index, blob in enumerate(layer.blobs)}
    weights = np.empty(layout.size, dtype=np.float32)
    for blob, part in zip(layout.blobs, layout.split(weights), strict=True):
        stored = found.get((blob.layer, blob.index))
        if stored is None or len(stored.data) != blob.size:
            raise CheckpointRefused(
                f"the .caffemodel does not hold blob {blob.index} of layer {blob.layer!r} in its size",
                remedy="use a checkpoint of this net",
            )
        part[...] = np.array(stored.data, dtype=np.float32).reshape(blob.shape)
    return weights
