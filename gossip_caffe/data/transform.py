"""Caffe's DataTransformer over a batch: (value − mean) · scale, cropped and mirrored.

What is random is a function of (seed, epoch, record), so a record is transformed alike whoever trains it, and
again if it is trained twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from gossip_caffe.data.datum import Record
from gossip_caffe.errors import DataError
from gossip_caffe.job.spec import TransformSpec
from gossip_caffe.mixing import mixed
from gossip_caffe.wire import caffe_wire_pb2 as wire


def read_mean(path: str) -> NDArray[np.float32]:
    """Read a mean image, shape (channels, height, width), from a BlobProto file. Raises DataError."""
    try:
        blob = wire.BlobProto.FromString(Path(path).read_bytes())
        shape = tuple(blob.shape.dim) or (blob.num, blob.channels, blob.height, blob.width)
        return np.array(blob.data, dtype=np.float32).reshape(shape[-3:])
    except (OSError, DecodeError, ValueError):
        raise DataError(
            f"cannot read the mean file {path}", remedy="make it with Caffe's compute_image_mean"
        ) from None


class Transformer:
    """The transformation of one job's TRAIN phase. Raises DataError when its mean file cannot be read."""

    def __init__(self, spec: TransformSpec, seed: int) -> None:
        self._crop, self._mirror = spec.crop_size, spec.mirror
        self._scale = np.float32(spec.scale)
        self._seed = seed
        self._mean_file = spec.mean_file
        self._mean: NDArray[np.float32] | None = None
        self._fits: tuple[int, ...] = ()
        if spec.mean_file:
            self._mean = read_mean(spec.mean_file)
        elif spec.mean_values:
            self._mean = np.array(spec.mean_values, dtype=np.float32).reshape(-1, 1, 1)

    def check(self, record: Record) -> None:
        """Raise DataError when a record cannot be transformed: what Caffe's CHECKs would abort on."""
        shape = record.values.shape
        if shape == self._fits:
            return
        if self._crop > min(shape[1:]):
            raise DataError(
                f"{record.where}: {_shown(shape)} is smaller than crop_size {self._crop}",
                remedy="choose a smaller crop_size",
            )
        if self._mean_file and self._mean is not None and self._mean.shape != shape:
            mean = f"{_shown(self._mean.shape)} in the mean file {self._mean_file}"
            raise DataError(
                f"{record.where}: {_shown(shape)}, but {mean}", remedy="make the mean file of this data set"
            )
        if not self._mean_file and self._mean is not None and len(self._mean) not in {1, shape[0]}:
            raise DataError(
                f"{record.where}: {len(self._mean)} mean values for {shape[0]} channels",
                remedy="give one mean_value, or one for each channel",
            )
        self._fits = shape

    def apply(self, records: Sequence[Record], epoch: int, first: int, out: NDArray[np.float32]) -> None:
        """Transform the records number ``first``, ``first`` + 1, … of an epoch into ``out``.

        ``out``: shape (len(records), channels, height, width), height and width being crop_size if there is
        one. Raises DataError naming a record that does not fit.
        """
        wanted = out.shape[1:]
        for record in records:
            self.check(record)
            shape = record.values.shape
            if (shape[0] if self._crop else shape) != (wanted[0] if self._crop else wanted):
                raise DataError(
                    f"{record.where}: {_shown(shape)}, but the data set began with {_shown(wanted)}",
                    remedy="give all records one shape, or crop them",
                )
        if self._crop or self._mirror:
            for record, bits, place in zip(records, self._bits(epoch, first, len(records)), out, strict=True):
                self._into(*self._window(record.values, bits), place)
        elif records:
            self._into(np.stack([record.values for record in records]), self._mean, out)

    def _window(
        self, values: NDArray[Any], bits: NDArray[np.uint64]
    ) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
        """Cut and turn a record and what is to be subtracted from it, by three random numbers."""
        mean = self._mean
        rows = columns = slice(None)
        if self._crop:
            top = int(bits[0] % np.uint64(values.shape[1] - self._crop + 1))
            left = int(bits[1] % np.uint64(values.shape[2] - self._crop + 1))
            rows, columns = slice(top, top + self._crop), slice(left, left + self._crop)
        turn = slice(None, None, -1 if self._mirror and bits[2] & np.uint64(1) else 1)
        if mean is not None and self._mean_file:
            mean = mean[:, rows, columns][:, :, turn]
        return values[:, rows, columns][:, :, turn], mean

    def _into(self, values: NDArray[Any], mean: NDArray[np.float32] | None, out: NDArray[np.float32]) -> None:
        if mean is None:
            np.copyto(out, values)
        else:
            np.subtract(values, mean, out=out, dtype=np.float32)
        if self._scale != 1:
            out *= self._scale

    def _bits(self, epoch: int, first: int, count: int) -> NDArray[np.uint64]:
        """Make three independent numbers for each record: shape (count, 3)."""
        salt = mixed(np.array([self._seed, epoch], dtype=np.uint64))
        base = salt[0] ^ (salt[1] << np.uint64(1))
        records = np.arange(first, first + count, dtype=np.uint64)
        draws = np.arange(1, 4, dtype=np.uint64) << np.uint64(48)
        return mixed((records ^ base)[:, None] ^ draws)


def _shown(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))
