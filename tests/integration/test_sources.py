"""Data from LevelDB and HDF5 reaches the ring as Caffe's own layers would have read it, bit for bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import caffe
import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from gossip_caffe.data.sources.source import measure, open_source
from gossip_caffe.job.spec.spec import SourceSpec, TopSpec, TransformSpec
from gossip_caffe.wire import caffe_wire_pb2 as wire

pytestmark = pytest.mark.integration

BATCH, BATCHES, CHUNK = 4, 7, 8
RECORDS = BATCH * BATCHES


def ours(spec: SourceSpec) -> list[NDArray[np.float32]]:
    """All records, in the order of their numbers: one array a top."""
    data = measure(spec)
    tops = tuple(TopSpec(top.name, shape) for top, shape in zip(spec.tops, data.shapes, strict=True))
    spec = dataclasses.replace(
        spec, tops=tops, records=data.records, digest=data.digest, chunk_keys=data.chunk_keys(CHUNK)
    )
    out = [np.empty((data.records, *shape), np.float32) for shape in data.shapes]
    source = open_source(spec, CHUNK, seed=1)
    for start in (16, 8, 0, 24):  # chunk by chunk, in any order
        stop = min(start + CHUNK, data.records)
        source.fill(0, start, stop, [array[start:stop] for array in out])
    source.close()
    return out


def caffes(layer: str, tops: tuple[str, ...], folder: Path) -> list[NDArray[np.float32]]:
    """What a net of that layer alone gives, pass by pass."""
    path = folder / "net.prototxt"
    path.write_text(layer)
    net = caffe.Net(str(path), caffe.TEST)
    batches = []
    for _ in range(BATCHES):
        net.forward()
        batches.append([net.blobs[top].data.copy() for top in tops])
    return [np.concatenate([batch[index] for batch in batches]) for index in range(len(tops))]


def test_a_leveldb_is_read_as_caffes_data_layer_reads_it(tmp_path: Path) -> None:
    import plyvel  # noqa: PLC0415 - optional: only this test is skipped without it

    rng = np.random.default_rng(0)
    with plyvel.DB(str(tmp_path / "train"), create_if_missing=True) as database:
        for index in range(RECORDS):
            pixels = rng.integers(0, 256, (3, 5, 6), dtype=np.uint8).tobytes()
            datum = wire.Datum(channels=3, height=5, width=6, data=pixels, label=int(rng.integers(300)))
            database.put(b"%05d" % index, datum.SerializeToString())
    mine = ours(
        SourceSpec(
            "data",
            "leveldb",
            str(tmp_path / "train"),
            (TopSpec("data", ()), TopSpec("label", ())),
            transform=TransformSpec(scale=0.00390625, mean_values=(104.0, 117.0, 123.0)),
        )
    )
    layer = f"""layer {{ name: "data" type: "Data" top: "data" top: "label"
      transform_param {{ scale: 0.00390625 mean_value: 104 mean_value: 117 mean_value: 123 }}
      data_param {{ source: "{tmp_path}/train" batch_size: {BATCH} }} }}"""
    for own, theirs in zip(mine, caffes(layer, ("data", "label"), tmp_path), strict=True):
        assert np.array_equal(own, theirs)


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "u1"])
def test_hdf5_files_are_read_as_caffes_layer_reads_them(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(0)
    names = []
    for number, length in enumerate((3, 10, 1, RECORDS - 14)):
        path = tmp_path / f"{number}.h5"
        names.append(f"{path}\n")
        with h5py.File(path, "w") as file:
            file["data"] = (rng.random((length, 2, 3, 4)) * 200).astype(dtype)
            file["clip"] = (rng.random((length, 1)) * 2).astype(dtype)
            file["label"] = rng.integers(0, 10, length).astype(dtype)
    (tmp_path / "list.txt").write_text("".join(names))
    tops = ("data", "clip", "label")
    mine = ours(
        SourceSpec(
            "data", "hdf5", str(tmp_path / "list.txt"), tuple(TopSpec(top, ()) for top in tops), folder="/"
        )
    )
    layer = f"""layer {{ name: "data" type: "HDF5Data" top: "data" top: "clip" top: "label"
      hdf5_data_param {{ source: "{tmp_path}/list.txt" batch_size: {BATCH} }} }}"""
    for own, theirs in zip(mine, caffes(layer, tops, tmp_path), strict=True):
        assert np.array_equal(own, theirs)
