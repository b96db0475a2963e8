"""A label that the net cannot take is a corrupt record of whatever source it stands in, named and left out like one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest

from gossip_caffe.data.loader import OpenSources
from gossip_caffe.data.sample import MOST_RECORDS, look_at_labels, sampled
from gossip_caffe.data.sources.source import measure
from gossip_caffe.errors import CorruptRecord
from gossip_caffe.job.spec.spec import DataSpec, LabelBound, SourceSpec, TopSpec
from gossip_caffe.wire import caffe_wire_pb2 as wire
from tests.hdf5_data import write_hdf5

RECORDS, BAD, CHUNK = 20, 13, 5
Written = Callable[[Path, float], tuple[SourceSpec, str]]
TOPS = (TopSpec("data", ()), TopSpec("label", ()))


def _labels(wrong: float) -> list[float]:
    labels = [float(index % 10) for index in range(RECORDS)]
    labels[BAD] = wrong
    return labels


def _datum(label: float) -> bytes:
    return bytes(
        wire.Datum(channels=1, height=2, width=2, data=b"1234", label=int(label)).SerializeToString()
    )


def in_lmdb(folder: Path, wrong: float) -> tuple[SourceSpec, str]:
    with lmdb.open(str(folder / "l"), map_size=1 << 22) as environment, environment.begin(write=True) as to:
        for index, label in enumerate(_labels(wrong)):
            to.put(b"%04d" % index, _datum(label))
    return SourceSpec("d", "lmdb", str(folder / "l"), TOPS), rf"{folder}/l, key '0013'"


def in_leveldb(folder: Path, wrong: float) -> tuple[SourceSpec, str]:
    plyvel = pytest.importorskip("plyvel")
    with plyvel.DB(str(folder / "l"), create_if_missing=True) as database:
        for index, label in enumerate(_labels(wrong)):
            database.put(b"%04d" % index, _datum(label))
    return SourceSpec("d", "leveldb", str(folder / "l"), TOPS), rf"{folder}/l, key '0013'"


def in_hdf5(folder: Path, wrong: float) -> tuple[SourceSpec, str]:
    labels = np.array(_labels(wrong), np.float32)
    write_hdf5(folder, "h", [8, 12], data=np.zeros((RECORDS, 4), np.float32), label=labels)
    return SourceSpec("d", "hdf5", str(folder / "h.txt"), TOPS), rf"{folder}/h_1.h5, record 5"


def in_pictures(folder: Path, wrong: float) -> tuple[SourceSpec, str]:
    cv2.imwrite(str(folder / "p.png"), np.zeros((4, 4, 3), np.uint8))
    (folder / "list.txt").write_text("".join(f"p.png {label:.0f}\n" for label in _labels(wrong)))
    return SourceSpec("d", "images", str(folder / "list.txt"), TOPS), rf"{folder}/list.txt:14, {folder}/p.png"


def in_a_dataset(folder: Path, wrong: float) -> tuple[SourceSpec, str]:
    (folder / "wrong_labels_of_mine.py").write_text(
        f"def made():\n    return [([0.0] * 4, float(label)) for label in {[str(x) for x in _labels(wrong)]}]\n"
    )
    tops = (TopSpec("data", (4,)), TopSpec("label", ()))
    spec = SourceSpec("d", "dataset", "wrong_labels_of_mine:made", tops, folder=str(folder))
    return spec, "wrong_labels_of_mine:made, record 13"


CASES = [
    *((written, wrong) for written in (in_lmdb, in_leveldb, in_pictures) for wrong in (10.0, 5e6, -1.0)),
    *((in_hdf5, wrong) for wrong in (10.0, 5e6, -1.0, math.nan, math.inf, -math.inf)),
    (in_a_dataset, math.nan),
]


def _cut(spec: SourceSpec, *bounds: LabelBound) -> DataSpec:
    data = measure(spec)
    tops = tuple(TopSpec(top.name, shape) for top, shape in zip(spec.tops, data.shapes, strict=True))
    source = SourceSpec(
        spec.layer,
        spec.kind,
        spec.path,
        tops,
        data.records,
        data.chunk_keys(CHUNK),
        digest=data.digest,
        folder=spec.folder,
        labels=bounds,
    )
    return DataSpec((source,), data.records, CHUNK, 4)


@pytest.fixture(autouse=True)
def forget_the_data_sets_module(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys  # noqa: PLC0415

    monkeypatch.delitem(sys.modules, "wrong_labels_of_mine", raising=False)


@pytest.mark.parametrize(("written", "wrong"), CASES)
def test_it_is_named_by_whoever_loads_it_and_left_out_on_request(
    tmp_path: Path, written: Written, wrong: float
) -> None:
    spec, where = written(tmp_path, wrong)
    shown = f"{wrong:.0f}" if math.isfinite(wrong) else f"{wrong:g}"
    message = f"{where}: label {shown}, but layer 'loss' takes 0 to 9"
    data = _cut(spec, LabelBound(1, 10, (), "loss"))
    arrays = [np.zeros((10, *top.shape), np.float32) for top in data.tops]
    told: list[tuple[int, int, str]] = []
    with closing(OpenSources(data, 1)) as sources:
        assert sources.fill([[0, 0, 10]], arrays) == 10
        with pytest.raises(CorruptRecord) as caught:
            sources.fill([[0, 10, 20]], arrays)
        assert caught.value.message == message
        assert sources.fill([[3, 10, 20]], arrays, lambda *skipped: told.append(skipped)) == 9
    assert told == [(3, BAD, message)]
    assert arrays[1][:9].tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    with pytest.raises(CorruptRecord) as caught:
        look_at_labels(data, 1)
    assert caught.value.message == message


def test_without_bounds_any_label_is_loaded(tmp_path: Path) -> None:
    data = _cut(in_lmdb(tmp_path, 5e6)[0])
    arrays = [np.zeros((RECORDS, *top.shape), np.float32) for top in data.tops]
    with closing(OpenSources(data, 1)) as sources:
        assert sources.fill([[0, 0, RECORDS]], arrays) == RECORDS
    look_at_labels(data, 1)


@pytest.mark.parametrize(
    ("records", "chunk", "shape"),
    [
        (1, 1, ()),
        (20, 5, ()),
        (1024, 100, ()),
        (10_000_000, 64, (1,)),
        (10_000, 16, (3, 4096, 4096)),
        (1030, 5, ()),
    ],
)
def test_a_sample_is_small_in_order_and_within_the_data(
    records: int, chunk: int, shape: tuple[int, ...]
) -> None:
    spec = SourceSpec("d", "lmdb", "/l", (TopSpec("data", shape), TopSpec("label", ())), records)
    ranges = list(sampled(spec, chunk))
    assert ranges[0][0] == 0
    assert all(0 <= start < stop <= records for start, stop in ranges)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(ranges))
    assert sum(stop - start for start, stop in ranges) <= MOST_RECORDS
    if records <= MOST_RECORDS and shape == ():
        assert sum(stop - start for start, stop in ranges) == records


def test_a_sample_passes_over_what_cannot_be_read(tmp_path: Path) -> None:
    spec, where = in_lmdb(tmp_path, 10)
    with lmdb.open(spec.path) as environment, environment.begin(write=True) as to:
        to.put(b"0002", b"\xff\xff")
    with pytest.raises(CorruptRecord) as caught:
        look_at_labels(_cut(spec, LabelBound(1, 10, (), "loss")), 1)
    assert caught.value.message.startswith(f"{where}: label 10,")


def test_a_list_of_pictures_is_looked_at_as_a_whole_and_no_picture_is_read(tmp_path: Path) -> None:
    spec, _ = in_pictures(tmp_path, 3)
    lines = "".join(f"p.png {index % 10}\n" for index in range(5000))
    (tmp_path / "list.txt").write_text(f"{lines}gone.png 10\n")
    with pytest.raises(CorruptRecord, match=r"list\.txt:5001, .*gone\.png: label 10, but"):
        look_at_labels(_cut(spec, LabelBound(1, 10, (), "loss")), 1)
