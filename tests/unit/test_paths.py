"""Where the files are that prototxts name."""

from __future__ import annotations

from pathlib import Path

import pytest

from gossip_caffe.job.prototxts.paths import Paths

EXAMPLE = "examples/digits/train_lmdb"


@pytest.fixture
def caffe(tmp_path: Path) -> Path:
    """A source tree with an example in it, and a working folder elsewhere."""
    (tmp_path / "caffe" / EXAMPLE).mkdir(parents=True)
    (tmp_path / "working").mkdir()
    return tmp_path / "caffe"


def test_what_an_example_names_from_the_root_of_its_tree_is_found_from_any_working_folder(
    caffe: Path,
) -> None:
    paths = Paths(caffe / "examples" / "digits", caffe.parent / "working")
    assert paths.resolve(EXAMPLE) == caffe / EXAMPLE
    assert paths.resolve("train_lmdb") == caffe / EXAMPLE
    assert (
        paths.resolve("examples") == caffe.parent / "working" / "examples"
    )  # a bare name is too common for that


def test_the_working_folder_comes_first_and_then_the_nearest(caffe: Path) -> None:
    working, folder = caffe.parent / "working", caffe / "examples" / "digits"
    paths = Paths(folder, working)
    (folder / EXAMPLE).mkdir(parents=True)
    assert paths.resolve(EXAMPLE) == folder / EXAMPLE
    (working / EXAMPLE).mkdir(parents=True)
    assert paths.resolve(EXAMPLE) == working / EXAMPLE


def test_what_is_nowhere_is_looked_for_in_the_working_folder(caffe: Path) -> None:
    working = caffe.parent / "working"
    assert Paths(caffe, working).resolve("missing") == working / "missing"
    assert Paths(caffe, working).resolve("/etc/missing") == Path("/etc/missing")
