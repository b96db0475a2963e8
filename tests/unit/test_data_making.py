"""Databases that are made from pictures and arrays: the records are Caffe's, and a run that was broken off goes on."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip_caffe.data.making import create as making
from gossip_caffe.data.making.cores import batches, in_order
from gossip_caffe.data.making.create import create
from gossip_caffe.data.making.databases import LmdbWriter, records_of
from gossip_caffe.data.making.looking import check, first_records, mean_of, write_mean
from gossip_caffe.data.making.recipe import Pictures, Recipe
from gossip_caffe.data.making.side_file import NAME, read_side_file
from gossip_caffe.data.sources.pictures import open_cv
from gossip_caffe.data.sources.transform import read_mean
from gossip_caffe.errors import Conflict, CorruptRecord, DataError, EnvironmentProblem, UsageError
from gossip_caffe.wire import caffe_wire_pb2 as wire

pytestmark = pytest.mark.needs("cv2")


def quiet(done: int, total: int) -> None:
    pass


def picture(seed: int, height: int = 6, width: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_list(folder: Path, count: int, ending: str = "png") -> Recipe:
    cv2 = open_cv()
    lines = []
    for number in range(count):
        cv2.imwrite(str(folder / f"p {number}.{ending}"), picture(number))
        lines.append(f"p {number}.{ending} {number % 3}")
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    return Recipe(str(folder / "list.txt"), root=f"{folder}/")


def data_of(path: Path) -> dict[str, wire.Datum]:
    return {key.decode(): wire.Datum.FromString(value) for key, value in records_of(str(path))}


def test_records_are_those_of_convert_imageset(tmp_path: Path) -> None:
    made = create(write_list(tmp_path, 3), tmp_path / "db", 1, quiet)
    assert (made.records, made.entries, made.skipped, made.was_there) == (3, 3, [], False)
    found = data_of(tmp_path / "db")
    assert list(found) == [f"0000000{number}_p {number}.png" for number in range(3)]
    for number, datum in enumerate(found.values()):
        pixels = picture(number).transpose(2, 0, 1)  # BGR, as cv2.imwrite took it
        assert datum == wire.Datum(
            channels=3, height=6, width=5, data=pixels.tobytes(), label=number, encoded=False
        )


@pytest.mark.parametrize(
    ("how", "shape"), [(Pictures(4, 8), (3, 4, 8)), (Pictures(gray=True), (1, 6, 5)), (Pictures(7, 7, True), (1, 7, 7))]
)  # fmt: skip
def test_pictures_are_resized_and_grayed_as_opencv_does(
    tmp_path: Path, how: Pictures, shape: tuple[int, ...]
) -> None:
    cv2 = open_cv()
    create(replace(write_list(tmp_path, 1), pictures=how), tmp_path / "db", 1, quiet)
    (datum,) = data_of(tmp_path / "db").values()
    wanted = cv2.imread(str(tmp_path / "p 0.png"), cv2.IMREAD_GRAYSCALE if how.gray else cv2.IMREAD_COLOR)
    if how.height:
        wanted = cv2.resize(wanted, (how.width, how.height))
    assert (datum.channels, datum.height, datum.width) == shape
    assert datum.data == (wanted if how.gray else wanted.transpose(2, 0, 1)).tobytes()


def test_an_encoded_record_is_the_file_itself_where_nothing_changes_it(tmp_path: Path) -> None:
    recipe = write_list(tmp_path, 1)
    create(replace(recipe, pictures=Pictures(encoded=True)), tmp_path / "whole", 1, quiet)
    create(replace(recipe, pictures=Pictures(4, 4, encoded=True)), tmp_path / "small", 1, quiet)
    create(replace(recipe, pictures=Pictures(encoded=True, encode_type="jpg")), tmp_path / "other", 1, quiet)
    content = (tmp_path / "p 0.png").read_bytes()
    (whole,) = data_of(tmp_path / "whole").values()
    assert whole == wire.Datum(data=content, label=0, encoded=True)
    (small,) = data_of(tmp_path / "small").values()
    assert (small.channels, small.height, small.width, small.encoded) == (3, 4, 4, True)
    assert small.data.startswith(b"\x89PNG")
    (other,) = data_of(tmp_path / "other").values()
    assert other.data.startswith(b"\xff\xd8")
    with pytest.raises(UsageError, match="OpenCV encodes no 'abc'"):
        create(
            replace(recipe, pictures=Pictures(encoded=True, encode_type="abc")), tmp_path / "none", 1, quiet
        )


def test_several_processes_make_the_same_database_as_one(tmp_path: Path) -> None:
    recipe = replace(write_list(tmp_path, 120), shuffle_seed=7)
    create(recipe, tmp_path / "one", 1, quiet)
    create(recipe, tmp_path / "two", 2, quiet)
    assert list(records_of(str(tmp_path / "one"))) == list(records_of(str(tmp_path / "two")))


def test_the_order_is_mixed_by_the_seed(tmp_path: Path) -> None:
    recipe = write_list(tmp_path, 20)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        create(replace(recipe, shuffle_seed=seed), tmp_path / name, 1, quiet)
    first, second, third = (list(data_of(tmp_path / name)) for name in "abc")
    assert first == second != third
    assert sorted(key[9:] for key in first) == sorted(key[9:] for key in third)


class Killed(BaseException):
    """The process ends here."""


@settings(max_examples=15, deadline=None)
@given(kills=st.lists(st.integers(0, 4), max_size=3), seed=st.integers(0, 99))
def test_a_run_that_was_killed_goes_on_and_nothing_looks_whole_before(
    tmp_path_factory: pytest.TempPathFactory, kills: list[int], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("killed")
    recipe = replace(write_list(folder, 23), shuffle_seed=seed)
    patch = pytest.MonkeyPatch()
    patch.setattr(making, "TRANSACTION_RECORDS", 4)
    put = LmdbWriter.put
    try:
        for transactions in kills:
            left = [transactions]

            def once(self: LmdbWriter, items: object, left: list[int] = left) -> None:
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                put(self, items)  # type: ignore[arg-type]

            patch.setattr(LmdbWriter, "put", once)
            try:
                create(recipe, folder / "db", 1, quiet)
            except Killed:
                assert not (folder / "db").exists()
        patch.setattr(LmdbWriter, "put", put)
        made = create(recipe, folder / "db", 1, quiet)
    finally:
        patch.undo()
    create(recipe, folder / "fresh", 1, quiet)
    assert list(records_of(str(folder / "db"))) == list(records_of(str(folder / "fresh")))
    assert not (folder / "db.part").exists()
    assert made.was_there or made.records == 23


def test_only_the_same_command_goes_on(tmp_path: Path) -> None:
    recipe = write_list(tmp_path, 5)
    (tmp_path / "p 3.png").write_bytes(b"torn")
    with pytest.raises(CorruptRecord, match=r"list\.txt:4: .*p 3\.png is not a picture.*--skip-unreadable"):
        create(recipe, tmp_path / "db", 1, quiet)
    with pytest.raises(Conflict, match="was begun from another source or with other options"):
        create(replace(recipe, pictures=Pictures(gray=True)), tmp_path / "db", 1, quiet)
    made = create(replace(recipe, skip_unreadable=True), tmp_path / "db", 1, quiet)
    assert (made.records, made.went_on_at, len(made.skipped)) == (4, 3, 1)
    assert create(recipe, tmp_path / "db", 1, quiet).was_there
    with pytest.raises(Conflict, match="exists, and was made from another source"):
        create(replace(recipe, shuffle_seed=1), tmp_path / "db", 1, quiet)
    (tmp_path / "db" / NAME).unlink()
    with pytest.raises(Conflict, match="exists, and was not made by this command"):
        create(recipe, tmp_path / "db", 1, quiet)


def test_a_database_has_one_maker_at_a_time(tmp_path: Path) -> None:
    recipe = write_list(tmp_path, 2)
    with making._being_made(tmp_path / "db.part"), pytest.raises(Conflict, match="another command makes"):
        create(recipe, tmp_path / "db", 1, quiet)


def test_nothing_is_left_of_a_run_without_a_record(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("none.png 1\n")
    recipe = Recipe(str(tmp_path / "list.txt"), skip_unreadable=True)
    with pytest.raises(DataError, match=r"no picture of .* can be read"):
        create(recipe, tmp_path / "db", 1, quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["list.txt"]
    with pytest.raises(EnvironmentProblem, match="cannot write"):
        create(recipe, tmp_path / "no" / "db", 1, quiet)


def test_unlike_shapes_are_refused_where_that_is_asked_for(tmp_path: Path) -> None:
    recipe = write_list(tmp_path, 3)
    open_cv().imwrite(str(tmp_path / "p 2.png"), picture(0, 9, 9))
    with pytest.raises(DataError, match=r"list\.txt:3: 3×9×9, and the records before it are 3×6×5"):
        create(replace(recipe, check_size=True), tmp_path / "db", 1, quiet)
    with pytest.raises(DataError, match="3×9×9"):  # going on knows the shape of the first records
        create(replace(recipe, check_size=True), tmp_path / "db", 1, quiet)
    create(recipe, tmp_path / "db", 1, quiet)
    assert check(str(tmp_path / "db"), 1, quiet).shapes == {"3×6×5": 2, "3×9×9": 1}


def test_a_folder_of_folders_gives_the_labels(tmp_path: Path) -> None:
    for name in ("zebra", "ant"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        open_cv().imwrite(str(tmp_path / "pictures" / name / "1.png"), picture(1))
    (tmp_path / "pictures" / "notes.txt").write_text("no class")
    (tmp_path / "pictures" / "ant" / "notes.txt").write_text("no picture")
    made = create(Recipe(str(tmp_path / "pictures")), tmp_path / "db", 1, quiet)
    assert made.labels == ("ant", "zebra")
    assert {key: datum.label for key, datum in data_of(tmp_path / "db").items()} == {
        "00000000_ant/1.png": 0,
        "00000001_zebra/1.png": 1,
    }
    side = read_side_file(tmp_path / "db")
    assert side is not None
    assert side.labels == ("ant", "zebra")
    with pytest.raises(DataError, match="has no folders"):
        create(Recipe(str(tmp_path / "pictures" / "ant")), tmp_path / "x", 1, quiet)


@pytest.mark.parametrize(
    ("rows", "shape"),
    [
        (np.zeros((4, 5), np.float64), (5, 1, 1)),
        (np.zeros((4, 6, 5), np.uint8), (1, 6, 5)),
        (np.zeros((4, 3, 6, 5), np.uint8), (3, 6, 5)),
        (np.zeros((4, 6, 5, 3), np.uint8), (3, 6, 5)),
        (np.zeros((4, 3, 5, 3), np.uint8), (3, 5, 3)),
        (np.zeros(4, np.int64), (1, 1, 1)),
    ],
)
def test_arrays_become_records_row_by_row(tmp_path: Path, rows: np.ndarray, shape: tuple[int, ...]) -> None:
    rows = rows + np.arange(4).reshape(-1, *[1] * (rows.ndim - 1)).astype(rows.dtype)
    np.savez(tmp_path / "a.npz", x=rows, y=np.array([3, -1, 2, 0]))
    create(Recipe(str(tmp_path / "a.npz")), tmp_path / "db", 1, quiet)
    found = data_of(tmp_path / "db")
    assert next(iter(found)) == "00000000_a"
    assert [datum.label for datum in found.values()] == [3, -1, 2, 0]
    for number, datum in enumerate(found.values()):
        assert (datum.channels, datum.height, datum.width) == shape
        values = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data)
        assert (values == number).all()


def test_pictures_in_arrays_are_resized_grayed_and_encoded(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", data=np.stack([picture(0), picture(1)]), label=np.arange(2))
    recipe = Recipe(str(tmp_path / "a.npz"), Pictures(4, 4, gray=True, encoded=True))
    create(recipe, tmp_path / "db", 1, quiet)
    assert [one.shape for one in first_records(str(tmp_path / "db"), 5)] == [(1, 4, 4)] * 2
    np.savez(tmp_path / "f.npz", data=np.zeros((2, 3)), label=np.arange(2))
    with pytest.raises(UsageError, match="only bytes of 1 or 3 channels"):
        create(replace(recipe, source=str(tmp_path / "f.npz")), tmp_path / "x", 1, quiet)


@pytest.mark.needs("h5py")
def test_an_hdf5_file_is_read_as_an_npz_file(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"], file["label"] = np.arange(12, dtype=np.float32).reshape(3, 4), np.array([[1], [2], [0]])
    create(Recipe(str(tmp_path / "a.h5")), tmp_path / "db", 1, quiet)
    assert [list(datum.float_data) for datum in data_of(tmp_path / "db").values()][1] == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": np.zeros((3, 2))}, "has not one array of data and one of labels: 'x' 3×2"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(4)}, "'x' 3×2, 'y' 4"),
        ({"x": np.zeros((3, 2)), "y": np.array([0, 0.5, 1])}, "the labels in 'y' are not whole numbers"),
        ({"x": np.zeros((3, 1, 1, 1, 1)), "y": np.zeros(3)}, "'x' has 5 axes"),
        ({"x": np.zeros((1, 1)), "y": np.array([2**31])}, "the label 2147483648 needs more than 32 bits"),
    ],
)
def test_arrays_that_are_no_records_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], says: str
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=says):
        create(Recipe(str(tmp_path / "a.npz")), tmp_path / "db", 1, quiet)


def test_half_of_a_size_is_refused() -> None:
    with pytest.raises(UsageError, match="give both, or none"):
        Pictures(height=3)


@pytest.mark.needs("plyvel")
def test_a_leveldb_holds_the_same_records(tmp_path: Path) -> None:
    recipe = write_list(tmp_path, 7)
    create(recipe, tmp_path / "a", 1, quiet)
    create(replace(recipe, backend="leveldb"), tmp_path / "b", 1, quiet)
    assert list(records_of(str(tmp_path / "a"))) == list(records_of(str(tmp_path / "b")))


def test_a_map_that_is_full_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gossip_caffe.data.making.databases.FIRST_MAP_BYTES", 1 << 15)
    (tmp_path / "db").mkdir()
    writer = LmdbWriter(tmp_path / "db")
    items = [(b"%08d" % number, bytes(1000)) for number in range(300)]
    writer.put(items[:150])
    writer.put(items[150:])
    assert (writer.count(), writer.last_key()) == (300, b"00000299")
    writer.close()
    assert list(records_of(str(tmp_path / "db"))) == items


def test_a_check_finds_every_broken_record(tmp_path: Path) -> None:
    create(write_list(tmp_path, 6), tmp_path / "db", 1, quiet)
    with lmdb.open(str(tmp_path / "db")) as environment, environment.begin(write=True) as writing:
        writing.put(b"00000002_x", b"\xff\xff")
        writing.put(b"00000003_x", wire.Datum(data=b"torn", encoded=True).SerializeToString())
        writing.put(b"00000004_x", wire.Datum(channels=1, height=2, width=2, data=b"123").SerializeToString())
    for processes in (1, 2):
        report = check(str(tmp_path / "db"), processes, quiet)
        assert (report.records, len(report.bad)) == (9, 3)
        assert [re_key in bad for re_key, bad in zip("234", report.bad, strict=True)] == [True] * 3
        assert report.labels == {0: 2, 1: 2, 2: 2}
        assert report.forms == {"bytes": 6, "broken": 3}


def test_the_mean_is_that_of_compute_image_mean(tmp_path: Path) -> None:
    create(write_list(tmp_path, 5), tmp_path / "db", 1, quiet)
    wanted = np.mean([picture(number).transpose(2, 0, 1) for number in range(5)], axis=0)
    mean = mean_of(str(tmp_path / "db"), quiet)
    np.testing.assert_allclose(mean, wanted, rtol=1e-6)
    write_mean(tmp_path / "mean.binaryproto", mean)
    assert (read_mean(str(tmp_path / "mean.binaryproto")) == mean).all()
    open_cv().imwrite(str(tmp_path / "p 4.png"), picture(0, 9, 9))
    create(Recipe(str(tmp_path / "list.txt"), root=f"{tmp_path}/"), tmp_path / "other", 1, quiet)
    with pytest.raises(DataError, match=r"key '00000004_p 4\.png': the shape \(3, 9, 9\)"):
        mean_of(str(tmp_path / "other"), quiet)


@given(st.lists(st.integers(), max_size=30), st.integers(1, 8))
def test_batches_hold_every_item_once_in_order(items: list[int], size: int) -> None:
    found = list(batches(items, size))
    assert [item for batch in found for item in batch] == items
    assert all(len(batch) == size for batch in found[:-1])


def test_results_come_in_the_order_of_the_tasks() -> None:
    tasks = random.Random(3).sample(range(1000), 20)
    assert list(in_order(abs, tasks, 1)) == tasks
    assert list(in_order(abs, iter(tasks), 2)) == tasks


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_an_error_comes_after_the_results_of_the_tasks_before_it(processes: int) -> None:
    results = in_order(even, iter([*range(0, 40, 2), 41, 42, *range(43, 80)]), processes)
    assert [next(results) for _ in range(20)] == list(range(0, 40, 2))
    with pytest.raises(DataError, match="41 is odd"):
        next(results)


def even(number: int) -> int:
    if number % 2:
        raise DataError(f"{number} is odd", remedy="give even numbers")
    return number
