"""Records in an LMDB: counted, cut and read."""

from __future__ import annotations

from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip_caffe.data.sources.lmdb_source import LmdbDataSet, LmdbSource
from gossip_caffe.data.sources.source import measure, open_source
from gossip_caffe.errors import DataError
from gossip_caffe.job.spec.spec import SourceSpec, TopSpec, TransformSpec
from gossip_caffe.wire import caffe_wire_pb2 as wire

CHUNK = 7
RECORDS = 40


def write(path: Path, values: dict[str, bytes]) -> str:
    with lmdb.open(str(path), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode(), value)
    return str(path)


def datum(label: int) -> bytes:
    data = bytes([label, label + 1, 255, 0, 1, 2])
    return bytes(wire.Datum(channels=1, height=2, width=3, data=data, label=label).SerializeToString())


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    # Written in another order than that of the keys, which is the one that counts.
    order = np.random.default_rng(0).permutation(RECORDS)
    return write(tmp_path_factory.mktemp("lmdb") / "train", {f"{i:08d}": datum(int(i)) for i in order})


def spec_of(
    path: str, *, records: int = RECORDS, keys: tuple[str, ...] = (), crop_size: int = 0, kind: str = "lmdb"
) -> SourceSpec:
    tops = (TopSpec("data", ()), TopSpec("label", ()))
    return SourceSpec(
        "data", kind, path, tops, records, chunk_keys=keys, transform=TransformSpec(crop_size=crop_size)
    )


def source(path: str) -> LmdbSource:
    keys = LmdbDataSet(spec_of(path)).chunk_keys(CHUNK)
    return LmdbSource(spec_of(path, keys=keys), CHUNK, seed=1)


def test_a_data_set_knows_its_size_its_shape_and_its_chunks(path: str) -> None:
    data = LmdbDataSet(spec_of(path))
    assert (data.records, data.shapes, data.digest) == (RECORDS, ((1, 2, 3), ()), "")
    keys = data.chunk_keys(CHUNK)
    assert [bytes.fromhex(key).decode() for key in keys] == [f"{i:08d}" for i in range(0, RECORDS, CHUNK)]
    assert data.chunk_keys(1000) == keys[:1]
    seen: list[int] = []
    data.chunk_keys(CHUNK, seen.append)
    assert seen == [0]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, RECORDS - 1), st.integers(0, 20)), max_size=8))
def test_any_range_is_read_in_the_order_of_the_keys(path: str, ranges: list[tuple[int, int]]) -> None:
    reader = source(path)
    try:
        for start, length in ranges:
            stop = min(RECORDS, start + length)
            assert [record.label for record in reader.read(start, stop)] == list(range(start, stop))
    finally:
        reader.close()


def test_a_record_is_decoded_with_its_key(path: str) -> None:
    reader = source(path)
    (record,) = reader.read(9, 10)
    assert record.values.tolist() == [[[9, 10, 255], [0, 1, 2]]]
    assert record.values.dtype == np.uint8
    assert record.where == f"{path}, key '00000009'"
    reader.close()


def test_floats_are_read_as_they_are(tmp_path: Path) -> None:
    value = wire.Datum(channels=2, height=1, width=1, float_data=[0.5, -1e9], label=-3).SerializeToString()
    reader = LmdbSource(spec_of(write(tmp_path, {"a": value}), records=1, keys=("61",)), 1, seed=1)
    (record,) = reader.read(0, 1)
    assert record.values.tolist() == [[[0.5]], [[-1e9]]]
    assert (record.values.dtype.name, record.label) == ("float32", -3)
    reader.close()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"\xff\xff", "key 'b': not a Datum"),
        (
            wire.Datum(channels=1, height=2, width=3, data=b"123").SerializeToString(),
            "3 values for a shape of 1×2×3",
        ),
        (wire.Datum(label=1).SerializeToString(), "0 values for a shape of 0×0×0"),
        (
            wire.Datum(channels=-1, height=-1, width=4, data=b"1234").SerializeToString(),
            "4 values for a shape of -1×-1×4",
        ),
        (
            wire.Datum(
                encoded=True, data=cv2.imencode(".png", np.full((2, 2), 999, np.uint16))[1].tobytes()
            ).SerializeToString(),
            "a picture of 16 bits a value",
        ),
        (
            wire.Datum(encoded=True, data=b"jpeg").SerializeToString(),
            "not a picture that OpenCV reads",
        ),
    ],
)
def test_a_corrupt_record_is_named_by_its_key(tmp_path: Path, value: bytes, message: str) -> None:
    path = write(tmp_path, {"a": datum(0), "b": value, "c": datum(2)})
    reader = LmdbSource(spec_of(path, records=3, keys=("61",)), 3, seed=1)
    records = reader.read(0, 3)
    assert next(records).label == 0
    with pytest.raises(DataError, match=message) as caught:
        next(records)
    assert str(caught.value).startswith(f"{path}, key 'b': ")
    reader.close()


@pytest.mark.parametrize(
    ("transform", "flag"),
    [
        (TransformSpec(), cv2.IMREAD_UNCHANGED),
        (TransformSpec(force_color=True), cv2.IMREAD_COLOR),
        (TransformSpec(force_gray=True), cv2.IMREAD_GRAYSCALE),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_encoded_picture_is_decoded_as_opencv_does(
    tmp_path: Path, transform: TransformSpec, flag: int, channels: int
) -> None:
    image = np.random.default_rng(channels).integers(0, 256, (9, 7, channels), dtype=np.uint8)
    content = cv2.imencode(".jpg", image)[1].tobytes()
    value = wire.Datum(encoded=True, data=content, label=4).SerializeToString()
    spec = SourceSpec(
        "data",
        "lmdb",
        write(tmp_path, {"a": value}),
        (TopSpec("data", ()), TopSpec("label", ())),
        1,
        chunk_keys=("61",),
        transform=transform,
    )
    expected = np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), flag))
    expected = np.atleast_3d(expected).transpose(2, 0, 1)
    assert LmdbDataSet(spec).shapes[0] == expected.shape
    reader = LmdbSource(spec, 1, seed=1)
    (record,) = reader.read(0, 1)
    reader.close()
    assert record.label == 4
    assert np.array_equal(record.values, expected)


def test_other_data_than_the_job_was_made_for_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 40 records, the job was made for 41"):
        LmdbSource(spec_of(path, records=41, keys=("00",)), CHUNK, seed=1)
    reader = LmdbSource(spec_of(path, keys=("00",)), RECORDS, seed=1)
    with pytest.raises(DataError, match="the first record of chunk 0 is gone"):
        next(reader.read(0, 1))
    reader.close()
    opened = open_source(spec_of(path, keys=("3030303030303030",)), RECORDS, seed=1)
    values, labels = np.empty((2, 1, 2, 3), np.float32), np.empty(2, np.float32)
    opened.fill(0, 8, 10, [values, labels])
    opened.close()
    assert labels.tolist() == [8, 9]
    assert values[1].tolist() == [[[9, 10, 255], [0, 1, 2]]]


def test_reading_past_the_end_is_an_error(path: str) -> None:
    reader = source(path)
    with pytest.raises(DataError, match="ends after 40 records"):
        list(reader.read(38, 42))
    reader.close()


def test_missing_empty_and_broken_data_sets_are_one_line_each(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no LMDB at"):
        measure(spec_of(str(tmp_path / "missing")))
    with pytest.raises(DataError, match="is empty"):
        measure(spec_of(write(tmp_path / "empty", {})))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(DataError, match="cannot open the LMDB at"):
        measure(spec_of(str(broken)))
    with pytest.raises(DataError, match="the kind 'tape' is not supported"):
        measure(spec_of(str(tmp_path), kind="tape"))


def test_a_transformation_that_does_not_fit_is_refused_before_the_job_is_made(path: str) -> None:
    assert LmdbDataSet(spec_of(path, crop_size=2)).shapes[0] == (1, 2, 2)
    with pytest.raises(DataError, match="key '00000000': 1×2×3 is smaller than crop_size 3"):
        LmdbDataSet(spec_of(path, crop_size=3))


def test_two_data_sets_may_be_looked_at_in_one_process(path: str) -> None:
    first, second = LmdbDataSet(spec_of(path)), LmdbDataSet(spec_of(path))
    assert first.chunk_keys(5) == second.chunk_keys(5)
