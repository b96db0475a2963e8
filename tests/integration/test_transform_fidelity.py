"""What a batch holds is what Caffe's own Data layer would have put into it: bit for bit where nothing is random."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from pathlib import Path

import caffe
import lmdb
import numpy as np
import pytest
from numpy.typing import NDArray

from gossip_caffe.data.sources.lmdb_source import LmdbDataSet, LmdbSource
from gossip_caffe.data.sources.transform import Transformer
from gossip_caffe.job.spec.spec import SourceSpec, TopSpec, TransformSpec
from gossip_caffe.wire import caffe_wire_pb2 as wire

pytestmark = pytest.mark.integration

BATCH, RECORDS, HEIGHT, WIDTH = 4, 12, 7, 9
CROPS = (0, 4, 5, 7)
MEANS = ("none", "one", "channels", "file")
SCALES = (1.0, 0.00390625, 0.017)


def write_data(folder: Path, channels: int, *, floats: bool) -> Path:
    """Records that differ in every value, and a mean file."""
    rng = np.random.default_rng(channels)
    path = folder / "data"
    with lmdb.open(str(path), map_size=1 << 22) as environment, environment.begin(write=True) as writing:
        for index in range(RECORDS):
            datum = wire.Datum(channels=channels, height=HEIGHT, width=WIDTH, label=index)
            pixels = rng.integers(0, 256, (channels, HEIGHT, WIDTH), dtype=np.uint8)
            if floats:
                datum.float_data.extend((pixels.astype(np.float32) / np.float32(7)).ravel().tolist())
            else:
                datum.data = pixels.tobytes()
            writing.put(b"%03d" % index, datum.SerializeToString())
    mean = wire.BlobProto(num=1, channels=channels, height=HEIGHT, width=WIDTH)
    mean.data.extend(rng.uniform(0, 255, channels * HEIGHT * WIDTH).astype(np.float32).tolist())
    (folder / "mean").write_bytes(mean.SerializeToString())
    return path


def transform_of(
    folder: Path, crop: int, mean: str, scale: float, channels: int, *, mirror: bool = False
) -> TransformSpec:
    values = {"one": (33.3,), "channels": (104.0, 116.7, 122.9)[:channels]}.get(mean, ())
    return TransformSpec(scale, mirror, crop, values, str(folder / "mean") if mean == "file" else "")


def text_of(transform: TransformSpec) -> str:
    """``transform_param`` as a user would write it."""
    fields = [f"scale: {transform.scale} crop_size: {transform.crop_size}"]
    fields += [f"mean_value: {value}" for value in transform.mean_values]
    fields += [f'mean_file: "{transform.mean_file}"'] if transform.mean_file else []
    fields += ["mirror: true"] if transform.mirror else []
    return f"transform_param {{ {' '.join(fields)} }}"


def caffes(
    data: Path, transform: TransformSpec, phase: int, passes: int = RECORDS // BATCH
) -> NDArray[np.float32]:
    """What Caffe's Data layer makes of all records."""
    net_file = data.parent / "net.prototxt"
    net_file.write_text(
        f'layer {{ name: "data" type: "Data" top: "data" top: "label" {text_of(transform)}\n'
        f'  data_param {{ source: "{data}" backend: LMDB batch_size: {BATCH} }} }}'
    )
    net = caffe.Net(str(net_file), phase)
    found = []
    for _ in range(passes):
        net.forward()
        found.append(net.blobs["data"].data.copy())
    return np.concatenate(found)


def source_of(data: Path, transform: TransformSpec) -> tuple[LmdbSource, tuple[int, ...]]:
    spec = SourceSpec(
        "d", "lmdb", str(data), (TopSpec("data", ()), TopSpec("label", ())), transform=transform
    )
    found = LmdbDataSet(spec)
    tops = tuple(TopSpec("t", shape) for shape in found.shapes)
    keys = found.chunk_keys(RECORDS)
    spec = dataclasses.replace(spec, tops=tops, records=RECORDS, chunk_keys=keys)
    return LmdbSource(spec, RECORDS, seed=1), found.shapes[0]


def ours(data: Path, transform: TransformSpec, phase: str) -> NDArray[np.float32]:
    source, shape = source_of(data, transform)
    out = np.empty((RECORDS, *shape), np.float32)
    if phase == "TEST":
        Transformer(transform, seed=1, phase="TEST").apply(list(source.read(0, RECORDS)), 0, 0, out)
    else:
        source.fill(0, 0, RECORDS, [out, np.empty(RECORDS, np.float32)])
    source.close()
    return out


@pytest.mark.parametrize("floats", [False, True], ids=["bytes", "floats"])
@pytest.mark.parametrize("channels", [1, 3])
def test_in_the_test_phase_every_value_is_caffes(tmp_path: Path, channels: int, floats: bool) -> None:
    data = write_data(tmp_path, channels, floats=floats)
    for crop, mean, scale in itertools.product(CROPS, MEANS, SCALES):
        transform = transform_of(tmp_path, crop, mean, scale, channels)
        found, expected = ours(data, transform, "TEST"), caffes(data, transform, caffe.TEST)
        assert found.tobytes() == expected.tobytes(), (crop, mean, scale)


@pytest.mark.parametrize("floats", [False, True], ids=["bytes", "floats"])
@pytest.mark.parametrize("channels", [1, 3])
def test_in_the_train_phase_every_value_is_caffes_where_nothing_is_random(
    tmp_path: Path, channels: int, floats: bool
) -> None:
    data = write_data(tmp_path, channels, floats=floats)
    for mean, scale in itertools.product(MEANS, SCALES):
        transform = transform_of(tmp_path, 0, mean, scale, channels)
        found, expected = ours(data, transform, "TRAIN"), caffes(data, transform, caffe.TRAIN)
        assert found.tobytes() == expected.tobytes(), (mean, scale)


def test_random_crops_and_mirroring_are_those_that_caffe_draws_and_as_often(tmp_path: Path) -> None:
    """Each variant of a record is one of Caffe's; all come about equally often, for Caffe and for us (chi-square)."""
    crop, epochs = 5, 300
    data = write_data(tmp_path, 1, floats=False)
    transform = transform_of(tmp_path, crop, "file", 0.5, 1, mirror=True)
    plain = ours(data, transform_of(tmp_path, 0, "file", 0.5, 1), "TRAIN")
    variants = {}
    for index, (top, left) in itertools.product(
        range(RECORDS), itertools.product(range(HEIGHT - crop + 1), range(WIDTH - crop + 1))
    ):
        window = plain[index, :, top : top + crop, left : left + crop]
        for mirrored, shown in ((False, window), (True, window[:, :, ::-1])):
            variants[shown.tobytes()] = (top, left, mirrored)
    kinds = len(set(variants.values()))
    source, shape = source_of(data, transform)
    drawn = np.empty((epochs, RECORDS, *shape), np.float32)
    for epoch in range(epochs):
        source.fill(epoch, 0, RECORDS, [drawn[epoch], np.empty(RECORDS, np.float32)])
    source.close()
    caffe.set_random_seed(1)
    passes = epochs * RECORDS // BATCH
    for found in (drawn.reshape(-1, *shape), caffes(data, transform, caffe.TRAIN, passes)):
        counts = Counter(
            variants[record.tobytes()] for record in found
        )  # a KeyError is a variant of nobody's
        expected = len(found) / kinds
        chi_square = sum((counts[kind] - expected) ** 2 / expected for kind in set(variants.values()))
        # Mean kinds - 1 and standard deviation √(2 · (kinds - 1)): five of them above is one in a million.
        assert chi_square < kinds - 1 + 5 * (2 * (kinds - 1)) ** 0.5
