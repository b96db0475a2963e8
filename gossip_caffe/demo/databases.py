"""The LMDBs of examples, made of arrays as ``gossip-caffe data create`` makes them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.data.making.create import create
from gossip_caffe.data.making.recipe import Recipe


def write_database(database: Path, data: NDArray[Any], labels: NDArray[Any]) -> None:
    """Write an LMDB in the order of the arrays; one that is there is replaced. Raises DataError.

    ``data``: shape (records, channels, height, width), uint8. ``labels``: shape (records,), integers.
    """
    if database.exists():
        shutil.rmtree(database)
    database.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gossip-caffe-", dir=database.parent) as scratch:
        source = Path(scratch) / "arrays.npz"
        np.savez(source, data=data, label=labels)
        create(Recipe(str(source)), database, 1, lambda _done, _all: None)
