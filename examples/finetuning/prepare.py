"""Writes the LMDBs of two tasks beside this file; run it from the root of the checkout.

The first task has all digits 0 to 4 of scikit-learn's, the second 40 digits 5 to 9, with the labels 0 to 4. Each has
a test set.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gossip_caffe.demo.databases import write_database
from gossip_caffe.demo.digits import load_digits, split

HERE = Path(__file__).parent
FEW = 40


def main() -> None:
    """Write four databases."""
    parts = dict(zip(("train", "test"), split(load_digits(), seed=1), strict=True))
    for task, kinds in (("first", range(5)), ("second", range(5, 10))):
        for part, digits in parts.items():
            chosen = np.flatnonzero(np.isin(digits.labels, kinds))
            if (task, part) == ("second", "train"):
                chosen = chosen[:FEW]
            images = digits.images[chosen][:, None]
            write_database(HERE / f"{task}_{part}_lmdb", images, digits.labels[chosen] - kinds[0])
            print(f"{HERE / task}_{part}_lmdb: {len(chosen):,} digits {kinds[0]} to {kinds[-1]}")


if __name__ == "__main__":
    main()
