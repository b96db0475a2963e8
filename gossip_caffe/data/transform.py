"""Caffe's DataTransformer over a batch: (value − mean) · scale, cropped and mirrored.

What is random is a function of (seed, epoch, record), so a record is transformed alike whoever trains it, and again
if it is trained twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from gossip_caffe.data.datum import Record
from gossip_caffe.errors import DataError
from gossip_caffe.job.spec import TransformSpec
from gossip_caffe.mixing import mixed
from gossip_caffe.wire import caffe_wire_pb2 as wire


def read_mean(path: str) -> NDArray[np.float32]:
    """A mean image, shape (channels, height, width), from a BlobProto file. Raises DataError."""
    try:
        blob = wire.BlobProto.FromString(Path(path).read_bytes())
    except (OSError, DecodeError):
        raise DataError(f"cannot read the mean file {path}", remedy="check transform_param.mean_file") from None
    shape = tuple(blob.shape.dim) or (blob.num, blob.channels, blob.height, blob.width)
    return np.array(blob.data, dtype=np.float32).reshape(shape[-3:])


class Transformer:
    """The transformation of one job's TRAIN phase."""

    def __init__(self, spec: TransformSpec, seed: int) -> None:
        self._spec = spec
        self._seed = seed
        self._mean: NDArray[np.float32] | None = None
        if spec.mean_file:
            self._mean = read_mean(spec.mean_file)
        elif spec.mean_values:
            self._mean = np.array(spec.mean_values, dtype=np.float32).reshape(-1, 1, 1)

    def apply(self, records: Sequence[Record], epoch: int, first: int, out: NDArray[np.float32]) -> None:
        """Transform records number ``first``, ``first`` + 1, … of an epoch into ``out`` (n, channels, h, w)."""
        crop = self._spec.crop_size
        if not crop and not self._spec.mirror and len({record.values.shape for record in records}) == 1:
            self._into(np.stack([record.values for record in records]), self._mean, out)
            return
        bits = self._bits(epoch, first, len(records))
        for index, record in enumerate(records):
            _, height, width = record.values.shape
            top = int(bits[0, index] % np.uint64(height - crop + 1)) if crop else 0
            left = int(bits[1, index] % np.uint64(width - crop + 1)) if crop else 0
            window = np.s_[:, top : top + crop, left : left + crop] if crop else np.s_[:, :, :]
            mean = self._mean
            if mean is not None and mean.shape[1:] != (1, 1):
                mean = mean[window]
            self._into(record.values[window], mean, out[index])
            if self._spec.mirror and bits[2, index] & np.uint64(1):
                out[index] = out[index, :, :, ::-1].copy()  # a view onto itself must not be copied in place

    def _into(
        self,
        values: NDArray[np.uint8] | NDArray[np.float32],
        mean: NDArray[np.float32] | None,
        out: NDArray[np.float32],
    ) -> None:
        if mean is None:
            np.copyto(out, values)
        else:
            np.subtract(values, mean, out=out, dtype=np.float32)
        if self._spec.scale != 1.0:
            out *= np.float32(self._spec.scale)

    def _bits(self, epoch: int, first: int, count: int) -> NDArray[np.uint64]:
        """Three independent draws a record: shape (3, count)."""
        salt = mixed(np.array([self._seed, epoch], dtype=np.uint64))
        records = np.arange(first, first + count, dtype=np.uint64)
        return np.stack([mixed(records ^ salt[0] ^ (salt[1] << np.uint64(1)) ^ np.uint64(draw << 48)) for draw in (1, 2, 3)])
