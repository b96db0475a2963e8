"""One record as Caffe stores it: a Datum, decoded to an array and a label."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from gossip_caffe.data.sources.pictures import decoded
from gossip_caffe.errors import CorruptRecord
from gossip_caffe.job.spec.spec import TransformSpec
from gossip_caffe.wire import caffe_wire_pb2 as wire


@dataclass(frozen=True, slots=True)
class Record:
    """One record. ``values``: shape (channels, height, width), uint8 or float32; ``where``: its name for messages."""

    values: NDArray[np.uint8] | NDArray[np.float32]
    label: int
    where: str


_AS_IT_IS = TransformSpec()


def decode(serialized: bytes, where: str, transform: TransformSpec = _AS_IT_IS) -> Record:
    """Read a serialized Datum. An encoded picture gets the colour channels that ``transform`` wants.

    ``where``: the record's name (source and key). Raises CorruptRecord, beginning with ``where``.
    """
    try:
        datum = wire.Datum.FromString(serialized)
    except DecodeError:
        raise CorruptRecord(
            f"{where}: not a Datum", remedy="write the data set again, or remove the record"
        ) from None
    return record_of(datum, where, transform)


def record_of(datum: wire.Datum, where: str, transform: TransformSpec = _AS_IT_IS) -> Record:
    """Read a Datum, as ``decode`` does. Raises CorruptRecord."""
    if datum.encoded:
        return _decode_picture(datum, where, transform)
    shape = (datum.channels, datum.height, datum.width)
    values: NDArray[np.uint8] | NDArray[np.float32] = (
        np.frombuffer(datum.data, dtype=np.uint8)
        if datum.data
        else np.array(datum.float_data, dtype=np.float32)
    )
    if min(shape) <= 0 or values.size != math.prod(shape):
        raise CorruptRecord(
            f"{where}: {values.size} values for a shape of {'×'.join(map(str, shape))}",
            remedy="write the data set again, or remove the record",
        )
    return Record(values.reshape(shape), datum.label, where)


def _decode_picture(datum: wire.Datum, where: str, transform: TransformSpec) -> Record:
    """Decode a picture as Caffe's DataTransformer: with the file's own channels, unless colour or gray is forced."""
    color = transform.force_color if transform.force_color or transform.force_gray else None
    pixels = decoded(datum.data, color=color)
    if pixels is not None and pixels.dtype != np.uint8:
        what = f"{where}: a picture of {8 * pixels.dtype.itemsize} bits a value"
        raise CorruptRecord(what, remedy="write it with 8, or set force_color or force_gray")
    if pixels is None:
        raise CorruptRecord(
            f"{where}: not a picture that OpenCV reads", remedy="write it again, or remove the record"
        )
    return Record(pixels, datum.label, where)
