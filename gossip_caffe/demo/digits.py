"""The data of the demonstration: scikit-learn's 1,797 digits of 8×8 pixels, as LMDBs that Caffe reads."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import lmdb
import numpy as np
from numpy.typing import NDArray

from gossip_caffe.errors import NotInstalled
from gossip_caffe.wire import caffe_wire_pb2

TRAIN_RECORDS = 1437
TEST_RECORDS = 360
SIDE = 8
PIXEL_MAX = 16
"""The brightest pixel of the set; a ``transform_param`` scale of 1/16 brings it to 1."""

_MAP_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Digits:
    """Images as uint8 of shape (records, 8, 8), 0 to 16, and their labels as int64 of shape (records,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.labels)


def load_digits() -> Digits:
    """Return the whole set in scikit-learn's order. Raises EnvironmentProblem without scikit-learn."""
    try:
        from sklearn import datasets  # noqa: PLC0415 - an extra that only the demonstration needs
    except ImportError:
        raise NotInstalled(
            "the demo's digits come with scikit-learn, which is not installed",
            name="sklearn",
            remedy="run: pip install 'gossip-caffe[demo]'",
        ) from None
    bunch = datasets.load_digits()
    return Digits(bunch.images.astype(np.uint8), bunch.target.astype(np.int64))


def split(digits: Digits, seed: int) -> tuple[Digits, Digits]:
    """Split the records, shuffled by ``seed``, into a training set of 1,437 and a test set of 360 records."""
    order = list(range(len(digits)))
    random.Random(seed).shuffle(order)
    train, test = (
        Digits(digits.images[chosen], digits.labels[chosen])
        for chosen in (order[:TRAIN_RECORDS], order[TRAIN_RECORDS : TRAIN_RECORDS + TEST_RECORDS])
    )
    return train, test


def datums(digits: Digits) -> Iterator[tuple[bytes, bytes]]:
    """Yield the key and the serialized Datum of each record, in ascending order of the keys."""
    for index, (image, label) in enumerate(zip(digits.images, digits.labels, strict=True)):
        datum = caffe_wire_pb2.Datum(
            channels=1, height=SIDE, width=SIDE, data=image.tobytes(), label=int(label)
        )
        yield f"{index:08d}".encode(), datum.SerializeToString()


def write_lmdb(path: Path, records: Iterable[tuple[bytes, bytes]]) -> None:
    """Write a new LMDB with these records; an existing folder at ``path`` is replaced."""
    if path.exists():
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        lmdb.open(str(path), map_size=_MAP_BYTES) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key, value in records:
            transaction.put(key, value, append=True)


def write_digits(folder: Path, seed: int) -> None:
    """Write ``folder``/train_lmdb and ``folder``/test_lmdb. Raises EnvironmentProblem without scikit-learn."""
    train, test = split(load_digits(), seed)
    write_lmdb(folder / "train_lmdb", datums(train))
    write_lmdb(folder / "test_lmdb", datums(test))
