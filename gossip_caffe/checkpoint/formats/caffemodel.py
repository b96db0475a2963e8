"""The .caffemodel format: a binary NetParameter with the layers' blobs in it.

The other fields that Caffe writes for a net (its name, its layers' types, bottoms, tops and parameters) come from the
``structure`` of its layout, if a Caffe has provided it. Otherwise the file has one layer per layer with parameters,
with its name. Blobs that layers share are written for each of them, as Caffe does: it refuses a layer with missing
blobs.

The file is encoded field by field, without a protobuf library. A packed field of floats is its length and the floats'
own bytes, so they are not copied twice. Plain Caffe loads the result (``caffe.Net(prototxt, file, TEST)``).
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.checkpoint.formats.blobs import blob_ends, float_bytes, floats_of
from gossip_caffe.checkpoint.formats.digest import HashingReader
from gossip_caffe.errors import CheckpointRefused
from gossip_caffe.protofields import field_bytes, fields, head, text_field
from gossip_caffe.solver.engines.layout import BlobSpec, WeightLayout, view

Flat = NDArray[np.float32]

# Field numbers of caffe.proto.
_NET_LAYER, _LAYER_NAME, _LAYER_BLOBS = 100, 1, 7


def _pieces(layout: WeightLayout, *, shape_first: bool = False) -> Iterator[bytes | BlobSpec]:
    """The file in order: bytes that are not weights, and a BlobSpec at the place of each blob's weights."""
    layers: dict[str, list[BlobSpec]] = {}
    for blob in (*layout.blobs, *layout.aliases):
        layers.setdefault(blob.layer, []).append(blob)
    for field, kind, value in fields(memoryview(layout.structure)):
        if field != _NET_LAYER or isinstance(value, int):
            yield field_bytes(field, kind, value)
            continue
        name, before, after = _without_blobs(value)
        yield from _layer(before, layers.pop(name, []), after, shape_first)
    for name, blobs in layers.items():
        yield from _layer(text_field(_LAYER_NAME, name), blobs, b"", shape_first)


def _layer(
    before: bytes, blobs: list[BlobSpec], after: bytes, shape_first: bool
) -> Iterator[bytes | BlobSpec]:
    in_order = sorted(blobs, key=attrgetter("index"))
    ends = [
        (*blob_ends(_LAYER_BLOBS, blob.shape, blob.size, shape_first=shape_first), blob) for blob in in_order
    ]
    inside = sum(len(lead) + 4 * blob.size + len(tail) for lead, tail, blob in ends)
    yield head(_NET_LAYER, len(before) + inside + len(after)) + before
    for lead, tail, blob in ends:
        yield lead
        yield blob
        yield tail
    yield after


def _without_blobs(layer: memoryview) -> tuple[str, bytes, bytes]:
    """A layer's name, its fields that Caffe writes before the blobs, and its fields after them."""
    name = ""
    before: list[bytes] = []
    after: list[bytes] = []
    for field, kind, value in fields(layer):
        if field == _LAYER_NAME and not isinstance(value, int):
            name = str(value, "utf-8")
        if field != _LAYER_BLOBS:
            (before if field < _LAYER_BLOBS else after).append(field_bytes(field, kind, value))
    return name, b"".join(before), b"".join(after)


def written_bytes(layout: WeightLayout) -> int:
    """The size in bytes of a layout's file. Raises ValueError when its structure cannot be parsed."""
    return sum(len(piece) if isinstance(piece, bytes) else 4 * piece.size for piece in _pieces(layout))


def write_caffemodel(file: BinaryIO, layout: WeightLayout, weights: Flat) -> None:
    """Write flat weights, shape (layout.size,), as a .caffemodel."""
    for piece in _pieces(layout):
        file.write(piece if isinstance(piece, bytes) else float_bytes(view(weights, piece)))


def read_written(file: HashingReader, layout: WeightLayout, *, shape_first: bool = False) -> Flat | None:
    """Read the flat weights of a file that ``write_caffemodel`` wrote, without an extra copy; None for any other file.

    ``shape_first``: an older version wrote it. The whole file is read in any case. Raises OSError.
    """
    weights: Flat = np.empty(layout.size, dtype=np.float32)
    as_written = True
    for piece in _pieces(layout, shape_first=shape_first):
        if isinstance(piece, bytes):
            found = bytearray(len(piece))
            as_written = file.fill(memoryview(found)) and found == piece
        else:
            as_written = file.fill(float_bytes(view(weights, piece)))
        if not as_written:
            break
    return weights if file.exhaust() and as_written else None


def read_caffemodel(content: bytes | memoryview, layout: WeightLayout) -> Flat:
    """The flat weights of a .caffemodel, shape (layout.size,). Only the weights are copied.

    Raises CheckpointRefused when the file is torn or of another net.
    """
    found = blobs_in(content)
    # Check all sizes first: a damaged layout may ask for more memory than there is.
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


def blobs_in(content: bytes | memoryview) -> dict[tuple[str, int], Flat]:
    """All blobs of a .caffemodel: (layer, index) → flat values, float32, which are views of ``content``.

    Raises CheckpointRefused for a file that cannot be parsed.
    """
    try:
        return dict(_found(memoryview(content)))
    except ValueError as error:
        raise CheckpointRefused(
            f"the .caffemodel cannot be parsed ({error})", remedy="use another checkpoint"
        ) from None


def _found(net: memoryview) -> Iterator[tuple[tuple[str, int], Flat]]:
    """((layer name, index), floats) for each blob of a file."""
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
