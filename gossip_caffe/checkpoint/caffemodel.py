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
from numpy.typing import NDArray

from gossip_caffe.checkpoint.blobs import blob_head, float_bytes, floats_of
from gossip_caffe.checkpoint.digest import HashingReader
from gossip_caffe.errors import CheckpointRefused
from gossip_caffe.protofields import fields, head, text_field
from gossip_caffe.solver.layout import BlobSpec, WeightLayout, view

Flat = NDArray[np.float32]

# Field numbers of caffe.proto.
_NET_LAYER, _LAYER_NAME, _LAYER_BLOBS = 100, 1, 7


def _pieces(layout: WeightLayout, weights: Flat) -> Iterator[bytes | memoryview]:
    layers: dict[str, list[BlobSpec]] = {}
    for blob in (*layout.blobs, *layout.aliases):
        layers.setdefault(blob.layer, []).append(blob)
    for layer, blobs in layers.items():
        in_order = sorted(blobs, key=attrgetter("index"))
        heads = [(blob_head(_LAYER_BLOBS, blob.shape, blob.size), view(weights, blob)) for blob in in_order]
        name = text_field(_LAYER_NAME, layer)
        yield head(_NET_LAYER, len(name) + sum(len(lead) + 4 * values.size for lead, values in heads)) + name
        for lead, values in heads:
            yield lead
            yield float_bytes(values)


def write_caffemodel(file: BinaryIO, layout: WeightLayout, weights: Flat) -> None:
    """Write flat weights, shape (layout.size,), as a .caffemodel."""
    for piece in _pieces(layout, weights):
        file.write(piece)


def read_written(file: HashingReader, layout: WeightLayout) -> Flat | None:
    """The flat weights of a file that ``write_caffemodel`` wrote, read to where they stay; None when it is none.

    All of the file is read, whatever it holds. Raises OSError.
    """
    weights: Flat = np.empty(layout.size, dtype=np.float32)
    as_written = True
    for piece in _pieces(layout, weights):
        if isinstance(piece, bytes):
            found = bytearray(len(piece))
            as_written = file.fill(memoryview(found)) and found == piece
        else:
            as_written = file.fill(piece)
        if not as_written:
            break
    return weights if file.exhaust() and as_written else None


def read_caffemodel(content: bytes | memoryview, layout: WeightLayout) -> Flat:
    """Flat weights from a .caffemodel, of which nothing else is copied.

    Raises CheckpointRefused when it is torn or of another net.
    """
    try:
        found = dict(_found(memoryview(content)))
    except ValueError as error:
        raise CheckpointRefused(
            f"the .caffemodel cannot be parsed ({error})", remedy="use another checkpoint"
        ) from None
    # First all sizes: a layout that was damaged may ask for more memory than there is.
    for blob in layout.blobs:
        stored = found.get((blob.layer, blob.index))
        if stored is None or stored.size != blob.size:
            raise CheckpointRefused(
                f"the .caffemodel does not hold blob {blob.index} of layer {blob.layer!r} in its size",
                remedy="use a checkpoint of this net",
            )
    weights = np.empty(layout.size, dtype=np.float32)
    for blob, part in zip(layout.blobs, layout.split(weights), strict=True):
        part[...] = found[blob.layer, blob.index].reshape(blob.shape)
    return weights


def _found(net: memoryview) -> Iterator[tuple[tuple[str, int], Flat]]:
    """The blobs of a file, by layer and index."""
    for field, kind, layer in fields(net):
        if field != _NET_LAYER or kind != 2 or isinstance(layer, int):
            continue
        name, blobs = "", []
        for inner, inner_kind, value in fields(layer):
            if isinstance(value, int) or inner_kind != 2:
                continue
            if inner == _LAYER_NAME:
                name = str(value, "utf-8")
            elif inner == _LAYER_BLOBS:
                blobs.append(floats_of(value))
        yield from (((name, index), blob) for index, blob in enumerate(blobs))
