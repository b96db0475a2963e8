"""The ``data`` commands: their words for a person and for a program."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import lmdb
import numpy as np
import pytest
from click.testing import CliRunner, Result

from gossip_caffe.cli.main import cli
from gossip_caffe.errors import Conflict, DataError, GossipCaffeError, UsageError
from gossip_caffe.wire import caffe_wire_pb2 as wire

Data = Callable[..., Result]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    """Run a data command in a folder that has arrays, a list, and folders of broken pictures."""
    monkeypatch.chdir(tmp_path)
    rows = np.arange(60 * 4, dtype=np.uint8).reshape(60, 1, 2, 2)
    np.savez("a.npz", data=rows, label=np.arange(60) % 50)
    Path("list.txt").write_text("none.png 3\n")
    Path("odd.txt").write_text("a.png\n")
    Path("pictures/ant").mkdir(parents=True)
    Path("pictures/ant/1.png").write_bytes(b"")

    def call(*words: str) -> Result:
        return CliRunner().invoke(cli, ["data", *words], prog_name="gossip-caffe")

    return call


def test_arrays_are_made_into_a_database_once(data: Data) -> None:
    assert data("create", "db", "a.npz").output == "db: 60 records of 60 entries\n"
    assert data("create", "db", "a.npz").output == "db is whole already; nothing to do\n"
    told = json.loads(data("create", "db", "a.npz", "--json").stdout)
    assert (told["was_there"], told["entries"]) == (True, 60)


def test_a_database_is_shown(data: Data) -> None:
    data("create", "db", "a.npz", "--shuffle", "--seed", "3")
    lines = data("show", "db", "--limit", "2").output.splitlines()
    assert lines[0] == "db: lmdb, 60 records, made from a.npz"
    assert len(lines) == 4
    assert "1×2×2  bytes" in lines[2]
    told = json.loads(data("show", "db", "--json").stdout)
    assert (told["records"], told["recipe"]["shuffle_seed"], len(told["first"])) == (60, 3, 10)


def test_the_mean_is_printed_as_compute_image_mean_prints_it(data: Data) -> None:
    data("create", "db", "a.npz")
    output = data("mean", "db", "mean.binaryproto").output
    assert output == "mean_value channel [0]: 119.5\nmean.binaryproto: shape 1×2×2\n"
    blob = wire.BlobProto.FromString(Path("mean.binaryproto").read_bytes())
    assert list(blob.data) == [118.0, 119.0, 120.0, 121.0]


def test_a_check_shows_the_labels_and_ends_with_7_for_a_broken_record(data: Data) -> None:
    data("create", "db", "a.npz")
    good = data("check", "db", "--jobs", "1")
    assert good.exit_code == 0
    assert good.output.startswith(
        "db: 60 records, all can be decoded\nshapes: 1×2×2 (60)\n50 labels, each of 1 to 2"
    )
    with lmdb.open("db") as environment, environment.begin(write=True) as writing:
        writing.put(b"zz", b"\xff")
    bad = data("check", "db", "--jobs", "1", "--json")
    assert bad.exit_code == 7
    told = json.loads(bad.stdout)
    assert (told["records"], told["labels"]["0"]) == (61, 2)
    assert told["bad"] == ["db, key 'zz': not a Datum"]


@pytest.mark.parametrize(
    ("words", "kind", "says"),
    [
        ("create db a.npz --resize-width 3", UsageError, "only one of --resize-height and --resize-width is given"),
        ("create db odd.txt", DataError, "odd.txt:1: 'a.png' does not end with a label; write the name"),
        ("create db list.txt --root x/", DataError, "list.txt:1: cannot read x/none.png (No such file or directory)"),
        ("create db pictures", DataError, "pictures/ant/1.png is not a picture that OpenCV reads; replace the file"),
        ("create pictures a.npz", Conflict, "pictures exists, and was not made by this command; remove it"),
        ("check list.txt", DataError, "there is no LMDB and no LevelDB at list.txt; name the database's folder"),
        ("mean pictures", DataError, "there is no LMDB and no LevelDB at pictures"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(data: Data, words: str, kind: type[GossipCaffeError], says: str) -> None:
    pytest.importorskip("cv2")
    error = data(*words.split()).exception
    assert isinstance(error, kind)
    assert says in str(error)
    assert not Path("db.part").exists()
