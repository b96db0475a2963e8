"""Small HDF5 data sets for the nets in tests/nets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from tests.net_data import attributes_of, classes_of_images


def write_hdf5(folder: Path, name: str, lengths: Sequence[int], **arrays: NDArray[np.float32]) -> None:
    """Write ``NAME.txt``, which lists a file for each of ``lengths``, and the files: cut from the arrays' rows."""
    paths, at = [], 0
    for number, length in enumerate(lengths):
        paths.append(folder / f"{name}_{number}.h5")
        with h5py.File(paths[-1], "w") as file:
            for key, array in arrays.items():
                file[key] = array[at : at + length]
        at += length
    (folder / f"{name}.txt").write_text("".join(f"{path}\n" for path in paths))


def write_sequences(folder: Path, steps: int = 400, streams: int = 4) -> None:
    """``sequences_train``: which of three signs came two steps before; a new sequence begins every 20 steps."""
    signs = np.random.default_rng(1).integers(0, 3, (steps, streams))
    cont = (np.arange(steps) % 20 != 0).astype(np.float32)[:, None].repeat(streams, axis=1)
    target = np.full((steps, streams), -1, dtype=np.float32)
    target[2:] = np.where(np.arange(2, steps)[:, None] % 20 >= 2, signs[:-2], -1)
    write_hdf5(
        folder,
        "sequences_train",
        [steps * streams],
        input=np.eye(3, dtype=np.float32)[signs].reshape(-1, 3),
        cont=cont.reshape(-1),
        target=target.reshape(-1),
    )


def write_labelled_hdf5(folder: Path) -> None:
    """``labelled_train``: images and six attributes of each, in three files of unequal length."""
    pixels, labels = classes_of_images(300, 1, 12)
    data = pixels.astype(np.float32) / np.float32(256)
    write_hdf5(
        folder,
        "labelled_train",
        [130, 53, 117],
        data=data,
        attributes=attributes_of(labels).astype(np.float32),
    )
