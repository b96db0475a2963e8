"""The net's structure in a .caffemodel: all that the installed Caffe writes there except the blobs.

Only the solver process imports this. Caffe writes a net as it built it: only the layers of its phase, with their
default values, and with the layers that split a blob among several readers. So this module lets Caffe write the net,
and removes the blobs.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from typing import Any

from caffe.proto import caffe_pb2
from google.protobuf import text_format

from gossip_caffe.protofields import field_bytes, fields, head

# Field numbers of caffe.proto.
_NET_LAYER, _LAYER_NAME, _LAYER_BLOBS = 100, 1, 7
MOST_BYTES = 1 << 20
"""The limit on a structure, because each checkpoint's manifest contains it. A net of 1,000 layers has a quarter."""


def structure_of(net: Any, sources: Sequence[str]) -> bytes:
    """Return the net's NetParameter without blobs. ``sources``: texts of layers that replace those of the same name.

    b"" if it is longer than MOST_BYTES, or if this Caffe's schema lacks a field of ``sources``: an old form, which only
    Caffe itself upgrades.
    """
    fd = os.memfd_create("gossip-caffe-structure", os.MFD_CLOEXEC)
    try:
        net.save(f"/proc/self/fd/{fd}")
        with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as content, memoryview(content) as written:
            structure = without_blobs(written, _layers(sources))
            return structure if len(structure) <= MOST_BYTES else b""
    except text_format.ParseError:
        return b""
    finally:
        os.close(fd)


def without_blobs(net: memoryview, instead: dict[str, bytes]) -> bytes:
    """Return a .caffemodel's bytes without the blobs; ``instead``: layer name → the layer that replaces it."""
    pieces = []
    for field, kind, value in fields(net):
        if field != _NET_LAYER or isinstance(value, int):
            pieces.append(field_bytes(field, kind, value))
            continue
        name, kept = "", []
        for inner, inner_kind, inner_value in fields(value):
            if inner == _LAYER_NAME and not isinstance(inner_value, int):
                name = str(inner_value, "utf-8")
            if inner != _LAYER_BLOBS:
                kept.append(field_bytes(inner, inner_kind, inner_value))
            if not isinstance(inner_value, int):
                inner_value.release()
        layer = instead.get(name) or b"".join(kept)
        pieces.append(head(_NET_LAYER, len(layer)) + layer)
        value.release()
    return b"".join(pieces)


def _layers(sources: Sequence[str]) -> dict[str, bytes]:
    """Return the user's source layers as Caffe would write them: name → bytes."""
    found = {}
    for text in sources:
        (layer,) = text_format.Parse(text, caffe_pb2.NetParameter()).layer
        if not layer.HasField("phase"):
            layer.phase = caffe_pb2.TRAIN
        found[layer.name] = layer.SerializeToString()
    return found
