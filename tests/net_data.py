"""Small data sets that something can be learned from, for the nets in tests/nets."""

from __future__ import annotations

from pathlib import Path

import lmdb
import numpy as np
from numpy.typing import NDArray

from gossip_caffe.wire import caffe_wire_pb2 as wire

Pixels = NDArray[np.uint8]
CLASSES, TESTED = 10, 100


def write_lmdb(path: Path, pixels: Pixels, labels: NDArray[np.int64]) -> None:
    """Write records as Caffe's convert_imageset does; ``pixels``: shape (records, channels, height, width)."""
    with lmdb.open(str(path), map_size=1 << 26) as environment, environment.begin(write=True) as writing:
        for index, (pixel, label) in enumerate(zip(pixels, labels, strict=True)):
            channels, height, width = pixel.shape
            datum = wire.Datum(
                channels=channels, height=height, width=width, data=pixel.tobytes(), label=int(label)
            )
            writing.put(b"%08d" % index, datum.SerializeToString())


def classes_of_images(
    records: int, channels: int, size: int, seed: int = 1
) -> tuple[Pixels, NDArray[np.int64]]:
    """Draw images of ten classes: each a coarse pattern of its own, shifted a little, under noise."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(99).integers(0, 200, (CLASSES, channels, 4, 4))
    coarse = np.kron(patterns, np.ones((1, 1, size // 4, size // 4), dtype=np.int64))
    labels = rng.integers(0, CLASSES, records)
    noise = rng.integers(0, 56, (records, channels, size, size))
    shifts = rng.integers(-2, 3, records)
    shifted = [np.roll(coarse[label], shift, axis=2) for label, shift in zip(labels, shifts, strict=True)]
    return (np.stack(shifted) + noise).astype(np.uint8), labels


def write_digits(folder: Path, records: int = 320) -> None:
    """``digits_train``, the same once more as ``digits_train_too``, and ``digits_test``: 1×28×28."""
    for name in ("digits_train", "digits_train_too"):  # Caffe's layers of one name cannot read one file
        write_lmdb(folder / name, *classes_of_images(records, 1, 28))
    write_lmdb(folder / "digits_test", *classes_of_images(TESTED, 1, 28, seed=2))


def write_colours(folder: Path, records: int = 320) -> None:
    """``colours_train``, ``colours_test``: 3×32×32, and their mean image."""
    write_lmdb(folder / "colours_test", *classes_of_images(TESTED, 3, 32, seed=2))
    pixels, labels = classes_of_images(records, 3, 32)
    write_lmdb(folder / "colours_train", pixels, labels)
    mean = wire.BlobProto(num=1, channels=3, height=32, width=32, data=pixels.mean(axis=0).reshape(-1))
    (folder / "mean.binaryproto").write_bytes(mean.SerializeToString())


def write_pairs(folder: Path, records: int = 320) -> None:
    """``pairs_train``: two images as channels, and whether they are of one class; the same as two data sets."""
    test_pixels, test_labels = classes_of_images(TESTED, 2, 28, seed=2)
    write_lmdb(folder / "pairs_test", test_pixels, test_labels % 2)
    pixels, labels = classes_of_images(2 * records, 1, 28)
    left, left_labels = pixels[:records], labels[:records]
    order = np.arange(records, 2 * records)
    for index in range(0, records, 2):  # every other pair is of one class
        order[index] = records + np.flatnonzero(labels[records:] == left_labels[index])[0]
    right, alike = pixels[order], (labels[order] == left_labels).astype(np.int64)
    write_lmdb(folder / "pairs_train", np.concatenate([left, right], axis=1), alike)
    write_lmdb(folder / "left_train", left, left_labels)
    write_lmdb(folder / "right_train", right, alike)


def attributes_of(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Six yes-or-no attributes for each label."""
    attributes: NDArray[np.int64] = np.random.default_rng(7).integers(0, 2, (CLASSES, 6))[labels]
    return attributes


def write_labelled_digits(folder: Path, records: int = 320) -> None:
    """``digits_train`` and, as ``labels_train``, six attributes of each image and its class: 7×1×1, floats."""
    pixels, labels = classes_of_images(records, 1, 28)
    write_lmdb(folder / "digits_train", pixels, labels)
    rows = np.concatenate([attributes_of(labels), labels[:, None]], axis=1)
    with (
        lmdb.open(str(folder / "labels_train"), map_size=1 << 26) as environment,
        environment.begin(write=True) as writing,
    ):
        for index, row in enumerate(rows):
            datum = wire.Datum(channels=len(row), height=1, width=1, float_data=row.tolist())
            writing.put(b"%08d" % index, datum.SerializeToString())
