"""Records from a data set of the user's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gossip_caffe.data.sources.dataset_source import DatasetSource, UsersDataSet
from gossip_caffe.errors import DataError
from gossip_caffe.job.spec.spec import SourceSpec, TopSpec

CODE = """
import numpy as np

class Squares:
    def __len__(self):
        return 9
    def __getitem__(self, index):
        if index == 7:
            raise RuntimeError("the disk is\\n full")
        return np.full((2, 3), index), index * index, [index]

def wrong_shape():
    return [(np.zeros((3, 2)), 0, 0)]

def nothing():
    return []

def leaves():
    raise SystemExit(0)

single = lambda: [np.float64(index) for index in range(4)]
"""
DATA, LABEL = TopSpec("data", (2, 3)), TopSpec("label", ())


@pytest.fixture
def module(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A module whose name no other test has imported."""
    name = f"users_data_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(CODE)
    return name


def spec_of(path: str, folder: Path, *tops: TopSpec, first: int = 0, records: int = 0) -> SourceSpec:
    return SourceSpec("in", "dataset", path, tops or (DATA, LABEL), records, folder=str(folder), first=first)


def test_each_layer_gets_its_own_values_of_a_record(module: str, tmp_path: Path) -> None:
    spec = spec_of(f"{module}:Squares", tmp_path)
    data = UsersDataSet(spec)
    assert (data.records, data.shapes) == (9, ((2, 3), ()))
    out = [np.empty((3, 2, 3), np.float32), np.empty(3, np.float32)]
    DatasetSource(spec, 4, seed=1).fill(0, 2, 5, out)
    assert out[0][:, 1, 2].tolist() == [2, 3, 4]
    assert out[1].tolist() == [4, 9, 16]
    third = DatasetSource(spec_of(f"{module}:Squares", tmp_path, TopSpec("extra", (1,)), first=2), 4, seed=1)
    last = [np.empty((1, 1), np.float32)]
    third.fill(0, 5, 6, last)
    assert last[0].tolist() == [[5]]


def test_a_record_of_one_value_need_not_be_a_tuple(module: str, tmp_path: Path) -> None:
    out = [np.empty(2, np.float32)]
    DatasetSource(spec_of(f"{module}:single", tmp_path, LABEL), 4, seed=1).fill(0, 1, 3, out)
    assert out[0].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "wrong_shape",
            r"wrong_shape, record 0: values of the shapes \[\(3, 2\), \(\)\], but layer 'in' takes",
        ),
        ("nothing", "nothing: the data set is empty"),
        ("gone", "gone: AttributeError: "),
        ("leaves", "leaves: SystemExit: 0"),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_the_callable(
    module: str, tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        UsersDataSet(spec_of(f"{module}:{name}", tmp_path))


def test_an_error_in_the_users_code_names_the_record(module: str, tmp_path: Path) -> None:
    source = DatasetSource(spec_of(f"{module}:Squares", tmp_path), 4, seed=1)
    with pytest.raises(DataError, match="Squares, record 7: RuntimeError: the disk is full"):
        source.values(7)
    with pytest.raises(DataError, match="no_such_module:x: ModuleNotFoundError"):
        UsersDataSet(spec_of("no_such_module:x", tmp_path))
    with pytest.raises(DataError, match="not MODULE:CALLABLE"):
        UsersDataSet(spec_of("Squares", tmp_path))
    with pytest.raises(DataError, match="has 9 records, the job was made for 8"):
        DatasetSource(spec_of(f"{module}:Squares", tmp_path, records=8), 4, seed=1)
