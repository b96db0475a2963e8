"""Writes train_lmdb and test_lmdb beside this file; run it from the root of the checkout.

The four files of Fashion-MNIST are read, as they are published, from the folder $GOSSIP_CAFFE_FASHION_MNIST. Without
it the pictures are made up: as many, of the same shape, of ten kinds.
"""

from __future__ import annotations

import argparse
import gzip
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.demo.databases import write_database
from gossip_caffe.demo.patterns import pictures

HERE = Path(__file__).parent
SHAPE = (1, 28, 28)
RECORDS = {"train": 60_000, "t10k": 10_000}


def published(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The pictures and labels of a part of the data set."""
    values = np.frombuffer(gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes()), np.uint8)
    labels = np.frombuffer(gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes()), np.uint8)
    return values[16:].reshape(-1, *SHAPE), labels[8:]


def main() -> None:
    """Write both databases."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--records", type=int, help="write no more than so many of each part")
    most = options.parse_args().records
    folder = os.environ.get("GOSSIP_CAFFE_FASHION_MNIST")
    for seed, (part, name) in enumerate({"train": "train_lmdb", "t10k": "test_lmdb"}.items()):
        count = min(most or RECORDS[part], RECORDS[part])
        found = published(Path(folder), part) if folder else pictures(count, SHAPE, seed)
        data, labels = (values[:count] for values in found)
        write_database(HERE / name, data, labels)
        print(f"{HERE / name}: {len(labels):,} {'records of Fashion-MNIST' if folder else 'made-up records'}")


if __name__ == "__main__":
    main()
