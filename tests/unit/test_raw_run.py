"""Many raw Datums at a time give what parsing each of them gives."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gossip_caffe.data.sources.datum import decode
from gossip_caffe.data.sources.lmdb_source import LmdbDataSet, LmdbSource
from gossip_caffe.data.sources.raw_run import RawRun
from gossip_caffe.errors import DataError
from gossip_caffe.job.spec.spec import SourceSpec, TopSpec, TransformSpec
from gossip_caffe.wire import caffe_wire_pb2 as wire

SHAPES = st.sampled_from([(1, 1, 1), (1, 2, 3), (3, 5, 130), (3, 80, 90)])
LABELS = st.one_of(st.none(), st.integers(0, 300), st.integers(-(2**31), 2**31 - 1))
ENCODED = st.sampled_from([None, False])


def datum(shape: tuple[int, int, int], label: int | None, encoded: bool | None, seed: int) -> bytes:
    made = wire.Datum(channels=shape[0], height=shape[1], width=shape[2])
    made.data = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8).tobytes()
    if label is not None:
        made.label = label
    if encoded is not None:
        made.encoded = encoded
    return bytes(made.SerializeToString())


@settings(deadline=None)
@given(shape=SHAPES, records=st.lists(st.tuples(LABELS, ENCODED), min_size=1, max_size=6))
def test_a_run_is_read_as_each_of_its_records_or_not_at_all(
    shape: tuple[int, int, int], records: list[tuple[int | None, bool | None]]
) -> None:
    values = [datum(shape, label, encoded, seed) for seed, (label, encoded) in enumerate(records)]
    run = RawRun.of(values[0])
    assert run is not None
    assert run.shape == shape
    found = run.read([memoryview(value) for value in values])
    careful = [decode(value, "x") for value in values]
    if found is None:
        negative = any(label is not None and label < 0 for label, _ in records)
        assert negative or len({encoded for _, encoded in records}) > 1  # in a table all end alike
        return
    pixels, labels = found
    assert labels.tolist() == [record.label for record in careful]
    for own, record in zip(pixels, careful, strict=True):
        assert np.array_equal(own, record.values)


@settings(deadline=None)
@given(value=st.binary(max_size=40), position=st.integers(0, 3))
def test_anything_else_among_them_is_left_to_the_parser(value: bytes, position: int) -> None:
    values = [datum((1, 2, 3), 4, None, seed) for seed in range(3)]
    run = RawRun.of(values[0])
    assert run is not None
    values.insert(position, value)
    found = run.read(values)
    if found is not None:  # only a record of the same form may be read
        careful = decode(value, "x")
        assert found[1][position] == careful.label
        assert np.array_equal(found[0][position], careful.values)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff\xff",
        wire.Datum(encoded=True, data=b"jpeg").SerializeToString(),
        wire.Datum(channels=1, height=1, width=2, float_data=[1, 2]).SerializeToString(),
        wire.Datum(channels=1, height=1, width=2, data=b"123").SerializeToString(),
        wire.Datum(channels=-1, height=-1, width=4, data=b"1234").SerializeToString(),
    ],
)
def test_only_raw_bytes_of_the_right_number_make_a_run(value: bytes) -> None:
    assert RawRun.of(value) is None


def filled(source: LmdbSource, shape: tuple[int, ...], start: int, stop: int) -> list[NDArray[np.float32]]:
    out = [np.full((stop - start, *shape), np.nan, np.float32), np.full(stop - start, np.nan, np.float32)]
    source.fill(2, start, stop, out)
    return out


@pytest.mark.parametrize(
    "transform",
    [
        TransformSpec(),
        TransformSpec(scale=0.5, mean_values=(10.0,)),
        TransformSpec(mirror=True, crop_size=3, mean_values=(1.0, 2.0)),
    ],
    ids=["as it is", "scaled", "cropped and turned"],
)
def test_a_source_gives_the_same_the_quick_way_and_the_careful_way(
    tmp_path: Path, transform: TransformSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path)
    with lmdb.open(path, map_size=1 << 22) as environment, environment.begin(write=True) as writing:
        for index in range(40):
            label = -1 if index == 25 else 10 * index  # a negative label ends the quick way for its batch
            writing.put(b"%03d" % index, datum((2, 4, 5), label, None, index))
    spec = SourceSpec("d", "lmdb", path, (TopSpec("data", ()), TopSpec("label", ())), transform=transform)
    data = LmdbDataSet(spec)
    tops = tuple(TopSpec("t", shape) for shape in data.shapes)
    spec = dataclasses.replace(spec, tops=tops, records=40, chunk_keys=data.chunk_keys(8))
    ranges = [(0, 8), (8, 13), (30, 40), (22, 30), (5, 9), (39, 40)]
    source = LmdbSource(spec, 8, seed=3)
    quick = [filled(source, data.shapes[0], start, stop) for start, stop in ranges]
    with pytest.raises(DataError, match="ends after 40 records"):
        filled(source, data.shapes[0], 38, 41)
    source.close()
    monkeypatch.setattr(RawRun, "of", lambda _: None)
    source = LmdbSource(spec, 8, seed=3)
    careful = [filled(source, data.shapes[0], start, stop) for start, stop in ranges]
    source.close()
    for own, other in zip(quick, careful, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(own, other, strict=True))
    assert careful[0][1].tolist() == [10.0 * index for index in range(8)]
