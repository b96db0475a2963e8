"""Caffe's DataTransformer over a batch: (value − mean) · scale, cropped and mirrored.

Random choices are a function of (seed, epoch, record). So a record is transformed in the same way on every peer, and
each time it is trained in that epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from gossip_caffe.data.sources.datum import Record, decode
from gossip_caffe.errors import CorruptRecord, DataError
from gossip_caffe.job.spec.spec import SourceSpec, TransformSpec
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
            f"cannot read the mean file {path}", remedy="make it with 'gossip-caffe data mean'"
        ) from None


ShapesOf = Callable[[SourceSpec, bytes, str], tuple[tuple[int, ...], ...]]
"""Returns the shapes of a layer's tops from (the layer's spec, a serialised record, its name for messages)."""


def datum_shapes(spec: SourceSpec, value: bytes, where: str) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of a layer's tops, from a Datum. Raises CorruptRecord."""
    record = decode(value, where, spec.transform)
    return (Transformer(spec.transform, seed=0).shape_of(record), ())[: len(spec.tops)]


class Transformer:
    """The transformation of a data layer. Crops are random in the TRAIN phase and central in the TEST phase.

    Raises DataError when the mean file cannot be read.
    """

    def __init__(self, spec: TransformSpec, seed: int, phase: str = "TRAIN") -> None:
        self._centred = phase == "TEST"
        self._crop, self._mirror = spec.crop_size, spec.mirror
        self._scale = np.float32(spec.scale)
        self._seed = seed
        self._mean_file = spec.mean_file
        self._mean: NDArray[np.float32] | None = None
        self._fits: tuple[int, ...] = ()
        self._scratch: NDArray[np.float32] = np.empty((0, 0, 0), dtype=np.float32)
        if spec.mean_file:
            self._mean = read_mean(spec.mean_file)
        elif spec.mean_values:
            self._mean = np.array(spec.mean_values, dtype=np.float32).reshape(-1, 1, 1)

    def check(self, record: Record) -> None:
        """Raise CorruptRecord when a record cannot be transformed: a CHECK of Caffe would abort on it."""
        shape = record.values.shape
        if shape == self._fits:
            return
        if self._crop > min(shape[1:]):
            raise CorruptRecord(
                f"{record.where}: {_shown(shape)} is smaller than crop_size {self._crop}",
                remedy="choose a smaller crop_size",
            )
        if self._mean_file and self._mean is not None and self._mean.shape != shape:
            mean = f"{_shown(self._mean.shape)} in the mean file {self._mean_file}"
            raise CorruptRecord(
                f"{record.where}: {_shown(shape)}, but {mean}", remedy="make the mean file of this data set"
            )
        if not self._mean_file and self._mean is not None and len(self._mean) not in {1, shape[0]}:
            raise CorruptRecord(
                f"{record.where}: {len(self._mean)} mean values for {shape[0]} channels",
                remedy="give one mean_value, or one for each channel",
            )
        self._fits = shape

    def shape_of(self, record: Record) -> tuple[int, ...]:
        """Return the shape of a transformed record: (channels, height, width). Raises CorruptRecord as ``check``."""
        self.check(record)
        channels, height, width = record.values.shape
        return channels, self._crop or height, self._crop or width

    def apply(self, records: Sequence[Record], epoch: int, first: int, out: NDArray[np.float32]) -> None:
        """Transform the records number ``first``, ``first`` + 1, … of an epoch into ``out``.

        ``out``: shape (len(records), channels, height, width); height and width are crop_size if it is set. Raises
        CorruptRecord, naming a record that does not fit.
        """
        for record in records:
            self._check_shape(record, out.shape[1:])
        if self.whole and records:
            self.apply_whole(np.stack([record.values for record in records]), out)
        else:
            self.apply_each([record.values for record in records], epoch, first, out)

    def apply_one(
        self, record: Record, epoch: int, number: int, out: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], bool]:
        """Transform one record into ``out``, shape (channels, height, width), as ``apply`` does.

        Returns the window that is left of it, in parts of the picture (xmin, ymin, xmax, ymax), and if it is mirrored.
        """
        self._check_shape(record, out.shape)
        bits = self._bits(epoch, number, 1)[0]
        rows, columns = self._window(record.values.shape, bits)
        mirrored = self._mirrors(bits)
        self._place(record.values, rows, columns, mirrored, out)
        height, width = record.values.shape[1:]
        top, bottom, _ = rows.indices(height)
        left, right, _ = columns.indices(width)
        edges = np.array([left, top, right, bottom], dtype=np.float32)
        sizes = np.array([width, height, width, height], dtype=np.float32)
        window: NDArray[np.float32] = np.divide(edges, sizes, dtype=np.float32)
        return window, mirrored

    def _check_shape(self, record: Record, wanted: Sequence[int]) -> None:
        self.check(record)
        shape = record.values.shape
        if (shape[0] if self._crop else shape) != (wanted[0] if self._crop else wanted):
            raise CorruptRecord(
                f"{record.where}: {_shown(shape)}, but the data set began with {_shown(wanted)}",
                remedy="give all records one shape, or crop them",
            )

    @property
    def whole(self) -> bool:
        """True if records are neither cropped nor mirrored, so that ``apply_whole`` can transform a batch."""
        return not (self._crop or self._mirror)

    def apply_whole(self, values: NDArray[Any], out: NDArray[np.float32]) -> None:
        """Transform checked records all at once. ``values`` and ``out`` have the same shape."""
        self._scaled(values, self._mean, out)

    def apply_each(
        self, records: Sequence[NDArray[Any]], epoch: int, first: int, out: NDArray[np.float32]
    ) -> None:
        """Transform checked records one by one, each with its own crop and mirroring."""
        for values, bits, place in zip(records, self._bits(epoch, first, len(records)), out, strict=True):
            rows, columns = self._window(values.shape, bits)
            self._place(values, rows, columns, self._mirrors(bits), place)

    def _mirrors(self, bits: NDArray[np.uint64]) -> bool:
        return bool(self._mirror and bits[2] & np.uint64(1))

    def _place(
        self, values: NDArray[Any], rows: slice, columns: slice, mirrored: bool, place: NDArray[np.float32]
    ) -> None:
        mean = self._mean
        if mean is not None and self._mean_file:
            mean = mean[:, rows, columns]
        if mirrored:
            # Mirrored last: conversion and arithmetic are fast only on rows in memory order.
            if self._scratch.shape != place.shape:
                self._scratch = np.empty_like(place)
            self._scaled(values[:, rows, columns], mean, self._scratch)
            np.copyto(place, self._scratch[:, :, ::-1])
        else:
            self._scaled(values[:, rows, columns], mean, place)

    def _window(self, shape: Sequence[int], bits: NDArray[np.uint64]) -> tuple[slice, slice]:
        if not self._crop:
            return slice(None), slice(None)
        spare = [length - self._crop for length in shape[1:]]
        if self._centred:
            top, left = (space // 2 for space in spare)
        else:
            top, left = (
                int(number % np.uint64(space + 1)) for number, space in zip(bits, spare, strict=False)
            )
        return slice(top, top + self._crop), slice(left, left + self._crop)

    def _scaled(
        self, values: NDArray[Any], mean: NDArray[np.float32] | None, out: NDArray[np.float32]
    ) -> None:
        np.copyto(out, values)
        if mean is not None:
            out -= mean
        if self._scale != 1:
            out *= self._scale

    def _bits(self, epoch: int, first: int, count: int) -> NDArray[np.uint64]:
        """Draw three independent random numbers for each record: shape (count, 3), uint64."""
        salt = mixed(np.array([self._seed, epoch], dtype=np.uint64))
        base = salt[0] ^ (salt[1] << np.uint64(1))
        records = np.arange(first, first + count, dtype=np.uint64)
        draws = np.arange(1, 4, dtype=np.uint64) << np.uint64(48)
        return mixed((records ^ base)[:, None] ^ draws)


def _shown(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))
