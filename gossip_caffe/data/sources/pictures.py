"""The decoding of pictures to pixels, with the same library and in the same way as Caffe."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.errors import NotInstalled

Pixels = NDArray[np.uint8]


def open_cv() -> Any:
    """Return the OpenCV module. Raises EnvironmentProblem when it is not installed."""
    try:
        import cv2  # noqa: PLC0415 - needed only for pictures
    except ImportError:
        raise NotInstalled(
            "pictures are read with OpenCV, which is not installed",
            name="cv2",
            remedy="pip install 'gossip-caffe[images]'",
        ) from None
    return cv2


def decoded(content: bytes, *, color: bool | None, height: int = 0, width: int = 0) -> Pixels | None:
    """Decode a picture. Returns shape (channels, height, width), uint8, colours in the order BGR; None: no picture.

    As Caffe's ReadImageToCVMat and DecodeDatumToCVMat (util/io.cpp). ``color``: True gives three channels, False one,
    None those of the file. ``height`` and ``width``: the new size, bilinear; 0: the file's size.
    """
    cv2 = open_cv()
    flag = {None: cv2.IMREAD_UNCHANGED, True: cv2.IMREAD_COLOR, False: cv2.IMREAD_GRAYSCALE}[color]
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flag) if content else None
    except cv2.error:  # a header that claims an impossible size
        image = None
    if image is None:
        return None
    if height and width:
        image = cv2.resize(image, (width, height))
    return channels_first(image)


def channels_first(image: Pixels) -> Pixels:
    """Return an OpenCV image in a blob's order: shape (channels, height, width), contiguous."""
    return np.ascontiguousarray(image.transpose(2, 0, 1)) if image.ndim == 3 else image[None]
