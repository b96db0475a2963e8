"""The record of one picture, byte for byte as Caffe's ReadImageToDatum (util/io.cpp) makes it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.data.making.recipe import Pictures
from gossip_caffe.data.sources.pictures import channels_first, open_cv
from gossip_caffe.errors import CorruptRecord, UsageError
from gossip_caffe.wire import caffe_wire_pb2 as wire

Shape = tuple[int, int, int]


def datum_of_file(path: str, label: int, where: str, how: Pictures) -> tuple[bytes, Shape]:
    """Return a picture's record, serialised, and its shape (channels, height, width).

    Raises CorruptRecord, beginning with ``where``, for a file that is no picture.
    """
    cv2 = open_cv()
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - Path costs as much as a small picture
            content = file.read()
    except OSError as error:
        raise CorruptRecord(
            f"{where}: cannot read {path} ({error.strerror})", remedy="check the list and --root"
        ) from None
    flag = cv2.IMREAD_GRAYSCALE if how.gray else cv2.IMREAD_COLOR
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flag) if content else None
    except cv2.error:  # a header that claims an impossible size
        image = None
    if image is None:
        raise CorruptRecord(f"{where}: {path} is not a picture that OpenCV reads", remedy="replace the file")
    kind = _kind(path, how)
    if kind and not how.height and not how.gray and _has_ending(path, kind):
        datum = wire.Datum(data=content, label=label, encoded=True)
        return datum.SerializeToString(), _shape(image)
    return datum_of_image(image, label, where, how, kind)


def datum_of_image(
    image: NDArray[np.uint8], label: int, where: str, how: Pictures, kind: str
) -> tuple[bytes, Shape]:
    """Return the record of an OpenCV image, resized and encoded. ``kind``: "": raw pixels; else the file form."""
    cv2 = open_cv()
    if how.height:
        image = cv2.resize(image, (how.width, how.height))
    shape = _shape(image)
    channels, height, width = shape
    if not kind:
        data = channels_first(image).tobytes()
    else:
        try:
            good, encoded = cv2.imencode(f".{kind}", image)
        except cv2.error:
            good = False
        if not good:
            raise UsageError(f"{where}: OpenCV encodes no {kind!r}", remedy="give --encode-type jpg or png")
        data = encoded.tobytes()
    datum = wire.Datum(
        channels=channels, height=height, width=width, data=data, label=label, encoded=bool(kind)
    )
    return datum.SerializeToString(), shape


def datum_of_row(
    values: NDArray[np.uint8] | NDArray[np.float32], label: int, where: str, how: Pictures
) -> tuple[bytes, Shape]:
    """Return the record of an array of shape (channels, height, width). Bytes may be resized and encoded as pictures.

    Raises UsageError for floats that are to be changed.
    """
    shape = (int(values.shape[0]), int(values.shape[1]), int(values.shape[2]))
    if how == Pictures():
        datum = wire.Datum(channels=shape[0], height=shape[1], width=shape[2], label=label, encoded=False)
        if values.dtype == np.uint8:
            datum.data = values.tobytes()
        else:
            datum.float_data.extend(values.reshape(-1).tolist())
        return datum.SerializeToString(), shape
    if values.dtype != np.uint8 or shape[0] not in {1, 3}:
        raise UsageError(
            f"{where}: only bytes of 1 or 3 channels are resized, grayed and encoded",
            remedy="leave these options out",
        )
    image: NDArray[np.uint8] = np.ascontiguousarray(
        values.transpose(1, 2, 0) if shape[0] == 3 else values[0], dtype=np.uint8
    )
    if how.gray and shape[0] == 3:
        cv2 = open_cv()
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    return datum_of_image(image, label, where, how, _kind("", how))


def _kind(path: str, how: Pictures) -> str:
    """Return the file form of the record, as convert_imageset guesses it; "": raw pixels."""
    if how.encode_type or not how.encoded:
        return how.encode_type
    return path.rpartition(".")[2].lower() or "png"


def _has_ending(path: str, kind: str) -> bool:
    ending = path.rpartition(".")[2].lower()
    return ending == kind.lower() or (kind.lower() == "jpg" and ending == "jpeg")


def _shape(image: NDArray[np.uint8]) -> Shape:
    height, width = image.shape[:2]
    return (int(image.shape[2]) if image.ndim == 3 else 1), int(height), int(width)
