"""Weights that are copied into a user's own ``caffe.Net``, in the user's own process. Caffe is not imported here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.checkpoint.formats.caffemodel import blobs_in
from gossip_caffe.errors import ModelError, NotFound

Blobs = Mapping[tuple[str, int], NDArray[np.float32]]
"""(layer, index) → values, float32 of any shape."""


class CaffeNet(Protocol):
    """The part of ``caffe.Net`` that is needed. ``params``: layer → its blobs, each with ``data``, float32."""

    @property
    def params(self) -> Mapping[str, Any]:
        """The parameters."""
        ...


def load_blobs(blobs: Blobs, net: CaffeNet) -> tuple[str, ...]:
    """Copy blobs into a net, by layer name, as Caffe does. Returns the names of the loaded layers, in the net's order.

    Layers that only one side has are left as they are. Raises ModelError, before anything is copied, when a blob has
    another size than the net's, or no layer fits.
    """
    found = []
    for layer, parameters in net.params.items():
        for index, blob in enumerate(parameters):
            if (values := blobs.get((layer, index))) is None:
                continue
            if values.size != blob.data.size:
                raise ModelError(
                    f"blob {index} of layer {layer!r} has {blob.data.size:,} values in this net, and "
                    f"{values.size:,} in the weights",
                    remedy="load them into the net that was trained, or rename the layer that is meant to differ",
                )
            found.append((layer, blob, values))
    if not found:
        raise ModelError(
            "no layer of this net has the name of a layer with weights",
            remedy="load them into the net that was trained",
        )
    for _, blob, values in found:
        blob.data[...] = values.reshape(blob.data.shape)
    return tuple(dict.fromkeys(layer for layer, _, _ in found))


def load_file(model: Path | None, net: CaffeNet) -> tuple[str, ...]:
    """Copy the weights of a .caffemodel file into a net, as ``load_blobs`` does. Raises NotFound without a file."""
    if model is None or not model.is_file():
        raise NotFound(
            f"there is no model at {model}" if model else "no model was written",
            remedy="train until the first snapshot",
        )
    if model.suffix == ".h5":
        raise ModelError(f"{model} is HDF5", remedy=f'load it with net.copy_from("{model}")')
    return load_blobs(blobs_in(model.read_bytes()), net)
