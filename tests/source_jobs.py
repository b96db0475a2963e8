"""One small data set in every form that a source layer reads, and jobs on it, each with plain Caffe's solver file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from gossip_caffe.data.sources.source import measure
from gossip_caffe.job.reading import job_of, read_model
from gossip_caffe.job.spec.spec import JobSettings, JobSpec
from gossip_caffe.wire import caffe_wire_pb2 as wire
from tests.caffe_jobs import HIDDEN
from tests.hdf5_data import write_hdf5
from tests.net_data import Pixels, write_lmdb

RECORDS, BATCH, SIZE = 100, 8, 6
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SourceJob:
    """``spec``: as a peer gets it; ``bare``: the solver's file for plain Caffe."""

    spec: JobSpec
    bare: Path


def _database(backend: str, transform: str) -> str:
    param = f'data_param {{ source: "train_{backend}" backend: {backend} batch_size: {BATCH} }}'
    return f'type: "Data" transform_param {{ {transform} }} {param}'


def _write_leveldb(path: Path, pixels: Pixels, labels: Labels) -> None:
    import plyvel  # noqa: PLC0415 - optional: only the test that writes one is skipped without it

    database = plyvel.DB(str(path), create_if_missing=True)
    for index, (pixel, label) in enumerate(zip(pixels, labels, strict=True)):
        datum = wire.Datum(
            channels=pixel.shape[0], height=SIZE, width=SIZE, data=pixel.tobytes(), label=int(label)
        )
        database.put(b"%05d" % index, datum.SerializeToString())
    database.close()


def lmdb_job(folder: Path, pixels: Pixels, labels: Labels) -> tuple[str, str]:
    write_lmdb(folder / "train_LMDB", pixels, labels)
    return (_database("LMDB", "scale: 0.00390625"),) * 2


def leveldb_job(folder: Path, pixels: Pixels, labels: Labels) -> tuple[str, str]:
    _write_leveldb(folder / "train_LEVELDB", pixels, labels)
    return (_database("LEVELDB", "scale: 0.00390625 mean_value: 100"),) * 2


def hdf5_job(folder: Path, pixels: Pixels, labels: Labels) -> tuple[str, str]:
    data = pixels.astype(np.float32) / np.float32(256)
    write_hdf5(folder, "train_hdf5", [41, 9, 50], data=data, label=labels.astype(np.float32))
    layer = f'type: "HDF5Data" hdf5_data_param {{ source: "train_hdf5.txt" batch_size: {BATCH} }}'
    return layer, layer


def _write_images(folder: Path, pixels: Pixels, labels: Labels, ending: str) -> None:
    (folder / "images").mkdir()
    lines = []
    for index, (pixel, label) in enumerate(zip(pixels, labels, strict=True)):
        name = f"{index:03d}.{ending}"
        cv2.imwrite(str(folder / "images" / name), pixel.transpose(1, 2, 0))
        lines.append(f"{name} {label}\n")
    (folder / "images.txt").write_text("".join(lines))


def _image_job(
    param: str, size: int, *, color: bool, ending: str
) -> Callable[[Path, Pixels, Labels], tuple[str, str]]:
    # Plain Caffe without OpenCV reads no image: it gets, as an LMDB, the pixels that OpenCV decodes.
    def job(folder: Path, pixels: Pixels, labels: Labels) -> tuple[str, str]:
        _write_images(folder, pixels, labels, ending)
        flag = cv2.IMREAD_COLOR if color else cv2.IMREAD_GRAYSCALE
        decoded = []
        for index in range(len(pixels)):
            image: Any = cv2.imread(str(folder / "images" / f"{index:03d}.{ending}"), flag)
            if size != SIZE:
                image = cv2.resize(image, (size, size))
            decoded.append(image.reshape(size, size, -1).transpose(2, 0, 1))
        write_lmdb(folder / "train_LMDB", np.stack(decoded), labels)
        given = f'source: "images.txt" root_folder: "{folder}/images/" batch_size: {BATCH} {param}'
        layer = f'type: "ImageData" transform_param {{ scale: 0.00390625 }} image_data_param {{ {given} }}'
        return layer, _database("LMDB", "scale: 0.00390625")

    return job


def dataset_job(folder: Path, pixels: Pixels, labels: Labels) -> tuple[str, str]:
    # Plain Caffe has nobody who fills its Input layer: it gets the same values from an LMDB.
    write_lmdb(folder / "train_LMDB", pixels, labels)
    np.savez(folder / "mine.npz", data=pixels.astype(np.float32) * np.float32(0.00390625), labels=labels)
    (folder / "mine_for_fidelity.py").write_text(_DATASET.format(path=folder / "mine.npz"))
    shapes = f"shape {{ dim: {BATCH} dim: 3 dim: {SIZE} dim: {SIZE} }} shape {{ dim: {BATCH} }}"
    return f'type: "Input" input_param {{ {shapes} }}', _database("LMDB", "scale: 0.00390625")


_DATASET = """
import numpy as np

class Mine:
    def __init__(self):
        kept = np.load("{path}")
        self.data, self.labels = kept["data"], kept["labels"]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.data[index], self.labels[index]
"""
READ_BY_CAFFE = ("LMDB", "LevelDB", "HDF5")
"""What plain Caffe reads from the same files."""
KINDS: dict[str, Callable[[Path, Pixels, Labels], tuple[str, str]]] = {
    "LMDB": lmdb_job,
    "LevelDB": leveldb_job,
    "HDF5": hdf5_job,
    "ImageData": _image_job("", SIZE, color=True, ending="png"),
    "ImageData, resized": _image_job("new_height: 9 new_width: 9", 9, color=True, ending="jpg"),
    "ImageData, grey": _image_job("is_color: false shuffle: true", SIZE, color=False, ending="png"),
    "Input": dataset_job,
}


def write_source_job(folder: Path, kind: str, solver: str) -> SourceJob:
    """Write data, net and solver of a job on that kind of source; ``solver`` is the rest of the solver's file."""
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (RECORDS, 3, SIZE, SIZE), dtype=np.uint8)
    labels = (pixels[:, 0, 2:4, 2:4].mean(axis=(1, 2)) / 25.6).astype(np.int64)
    of_peer, of_caffe = KINDS[kind](folder, pixels, labels)
    for name, layer in (("peer", of_peer), ("bare", of_caffe)):
        head = 'name: "data" top: "data" top: "label" include { phase: TRAIN }'
        (folder / f"{name}_net.prototxt").write_text(f"layer {{ {head} {layer} }}\n{HIDDEN}")
        text = f'net: "{name}_net.prototxt"\nmax_iter: 1000\nsnapshot_after_train: false\n{solver}\n'
        (folder / f"{name}.prototxt").write_text(text)
    model = read_model(folder / "peer.prototxt")
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(folder))
        dataset = "mine_for_fidelity:Mine" if kind == "Input" else ""
        spec = job_of("test", model, JobSettings(), measure, dataset=dataset)
    sys.modules.pop("mine_for_fidelity", None)
    return SourceJob(spec, folder / "bare.prototxt")
