"""Records in HDF5 files of unequal length."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip_caffe.data.sources.hdf5_source import Hdf5DataSet, Hdf5Source
from gossip_caffe.errors import CorruptRecord, DataError
from gossip_caffe.job.spec.spec import SourceSpec, TopSpec

LENGTHS = (5, 1, 12, 2)
RECORDS = sum(LENGTHS)


def write(folder: Path, lengths: tuple[int, ...] = LENGTHS) -> str:
    at = 0
    for number, length in enumerate(lengths):
        rows = np.arange(at, at + length)
        with h5py.File(folder / f"{number}.h5", "w") as file:
            file["data"] = np.stack([rows, rows + 0.5], axis=1).astype(np.float64)[:, :, None]
            file["label"] = rows.astype(np.int32)
        at += length
    listed = folder / "train.txt"
    listed.write_text("".join(f"{folder}/{number}.h5\n" for number in range(len(lengths))))
    return str(listed)


def spec_of(path: str, *names: str, folder: str = "/") -> SourceSpec:
    tops = tuple(TopSpec(name, ()) for name in names or ("data", "label"))
    return SourceSpec("data", "hdf5", path, tops, folder=folder)


def opened(path: str) -> Hdf5Source:
    data = Hdf5DataSet(spec_of(path))
    tops = tuple(TopSpec(name, shape) for name, shape in zip(("data", "label"), data.shapes, strict=True))
    return Hdf5Source(SourceSpec("data", "hdf5", path, tops, data.records, digest=data.digest), 4, seed=1)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("hdf5"))


def test_a_data_set_knows_its_size_and_its_shapes(path: str) -> None:
    data = Hdf5DataSet(spec_of(path))
    assert (data.records, data.shapes, data.chunk_keys(4)) == (RECORDS, ((2, 1), ()), ())


@settings(deadline=None, max_examples=40)
@given(st.integers(0, RECORDS - 1), st.integers(1, RECORDS))
def test_any_range_is_read_over_the_bounds_of_files(path: str, start: int, length: int) -> None:
    stop = min(RECORDS, start + length)
    source = opened(path)
    data, labels = np.empty((stop - start, 2, 1), np.float32), np.empty(stop - start, np.float32)
    source.fill(0, start, stop, [data, labels])
    source.close()
    assert labels.tolist() == list(range(start, stop))
    assert data[:, 1, 0].tolist() == [index + 0.5 for index in range(start, stop)]


def test_relative_names_begin_at_the_working_folder_and_else_beside_the_list(tmp_path: Path) -> None:
    listed = Path(write(tmp_path, (3,)))
    listed.write_text("0.h5\n")
    assert Hdf5DataSet(spec_of(str(listed), folder="/nowhere")).records == 3
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write(elsewhere, (7,))
    assert Hdf5DataSet(spec_of(str(listed), folder=str(elsewhere))).records == 7


def test_what_does_not_fit_is_named_with_its_file(tmp_path: Path) -> None:
    listed = Path(write(tmp_path, (3, 2)))
    with pytest.raises(DataError, match=r"0.h5: no dataset 'pixels' \(there are: data, label\)"):
        Hdf5DataSet(spec_of(str(listed), "pixels"))
    with h5py.File(tmp_path / "1.h5", "a") as file:
        del file["label"]
        file["label"] = np.zeros(4)
    with pytest.raises(DataError, match=r"1.h5: datasets of unequal length \(data: 2, label: 4\)"):
        Hdf5DataSet(spec_of(str(listed)))
    with h5py.File(tmp_path / "1.h5", "w") as file:
        file["data"], file["label"] = np.zeros((2, 3)), np.zeros(2)
    with pytest.raises(DataError, match=r"1.h5: records of the shapes"):
        Hdf5DataSet(spec_of(str(listed)))
    with h5py.File(tmp_path / "1.h5", "w") as file:
        file["data"], file["label"] = ["a", "b"], np.zeros(2)
    with pytest.raises(DataError, match=r"1.h5: 'data' contains no numbers"):
        Hdf5DataSet(spec_of(str(listed)))
    (tmp_path / "1.h5").write_text("no HDF5")
    with pytest.raises(DataError, match=r"train.txt:2: cannot open .*1.h5"):
        Hdf5DataSet(spec_of(str(listed)))
    listed.write_text("\n\n")
    with pytest.raises(DataError, match=r"the list .* is empty"):
        Hdf5DataSet(spec_of(str(listed)))
    with pytest.raises(DataError, match="cannot read the list"):
        Hdf5DataSet(spec_of(str(tmp_path / "gone.txt")))


def test_other_files_than_the_job_was_made_for_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, (3, 2))
    data = Hdf5DataSet(spec_of(path))
    tops = (TopSpec("data", (2, 1)), TopSpec("label", ()))
    write(tmp_path, (3, 3))
    with pytest.raises(DataError, match="are not those of the job: 6 records here, 5 in the job"):
        Hdf5Source(SourceSpec("data", "hdf5", path, tops, data.records, digest=data.digest), 4, seed=1)


def test_a_broken_piece_of_a_file_is_corrupt_and_the_other_records_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, (8,))
    with h5py.File(tmp_path / "0.h5", "w") as file:
        file["label"] = np.arange(8)
        file.create_dataset("data", data=np.ones((8, 2, 1)), chunks=(2, 2, 1), fletcher32=True)
        piece = file["data"].id.get_chunk_info(1)
    with (tmp_path / "0.h5").open("r+b") as raw:
        raw.seek(piece.byte_offset)
        raw.write(b"broken")
    source = opened(path)
    out = [np.empty((2, 2, 1), np.float32), np.empty(2, np.float32)]
    with pytest.raises(CorruptRecord, match=r"0.h5, dataset 'data', records 2 to 3: cannot be read"):
        source.fill(0, 2, 4, out)
    source.fill(0, 4, 6, out)
    source.close()
    assert out[1].tolist() == [4, 5]
