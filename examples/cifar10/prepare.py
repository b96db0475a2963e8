"""Writes train_lmdb, test_lmdb and mean.binaryproto beside this file; run it from the root of the checkout.

    python examples/cifar10/prepare.py [--data FOLDER] [--records N]

FOLDER holds the binary version of CIFAR-10 as it is published (data_batch_1.bin … test_batch.bin). Without it the
pictures are made up: 5,000 and 1,000 of the same shape, of ten kinds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.demo.databases import write_database
from gossip_caffe.demo.patterns import pictures

HERE = Path(__file__).parent
SHAPE = (3, 32, 32)
FILES = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}
MADE_UP = {"train": 5_000, "test": 1_000}


def published(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The pictures and labels of a part of the data set: each record is a label and 3,072 values."""
    values = np.concatenate([np.fromfile(folder / name, np.uint8) for name in FILES[part]])
    records = values.reshape(-1, 1 + 3 * 32 * 32)
    return records[:, 1:].reshape(-1, *SHAPE), records[:, 0]


def main() -> None:
    """Write both databases, and the mean of the training's."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--data", type=Path, metavar="FOLDER")
    options.add_argument("--records", type=int, help="write no more than so many of each part")
    given = options.parse_args()
    for seed, part in enumerate(FILES):
        count = given.records or (MADE_UP[part] if given.data is None else None)
        if given.data is None:
            data, labels = pictures(count, SHAPE, seed)
        else:
            data, labels = (values[:count] for values in published(given.data, part))
        write_database(HERE / f"{part}_lmdb", data, labels)
        kind = "made-up records" if given.data is None else "records of CIFAR-10"
        print(f"{HERE / part}_lmdb: {len(labels):,} {kind}")
    mean = ("data", "mean", str(HERE / "train_lmdb"), str(HERE / "mean.binaryproto"))
    subprocess.run([sys.executable, "-m", "gossip_caffe", *mean], check=True)


if __name__ == "__main__":
    main()
