"""Records in a LevelDB: read in key order from a shadow, the database itself untouched."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import plyvel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip_caffe.data.sources.leveldb_source import LevelDbDataSet, LevelDbSource
from gossip_caffe.errors import DataError
from gossip_caffe.job.spec.spec import SourceSpec, TopSpec
from gossip_caffe.wire import caffe_wire_pb2 as wire

RECORDS, CHUNK = 40, 7


def write(path: Path, records: int = RECORDS) -> str:
    with plyvel.DB(str(path), create_if_missing=True) as database:
        for index in np.random.default_rng(0).permutation(records):
            datum = wire.Datum(channels=1, height=1, width=2, data=bytes([index, 255]), label=int(index))
            database.put(b"%08d" % index, datum.SerializeToString())
    return str(path)


def spec_of(path: str, records: int = RECORDS, keys: tuple[str, ...] = ()) -> SourceSpec:
    tops = (TopSpec("data", ()), TopSpec("label", ()))
    return SourceSpec("data", "leveldb", path, tops, records, chunk_keys=keys)


def source(path: str) -> LevelDbSource:
    keys = LevelDbDataSet(spec_of(path)).chunk_keys(CHUNK)
    return LevelDbSource(spec_of(path, keys=keys), CHUNK, seed=1)


def listing(path: str) -> dict[str, tuple[int, int]]:
    return {entry.name: (entry.stat().st_mtime_ns, entry.stat().st_size) for entry in Path(path).iterdir()}


def shadows() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"gossip-caffe-leveldb-{os.getpid()}-*"))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("leveldb") / "train")


def test_a_data_set_knows_its_size_its_shape_and_its_chunks(path: str) -> None:
    data = LevelDbDataSet(spec_of(path))
    assert (data.records, data.shapes, data.digest) == (RECORDS, ((1, 1, 2), ()), "")
    keys = [bytes.fromhex(key).decode() for key in data.chunk_keys(CHUNK)]
    assert keys == [f"{index:08d}" for index in range(0, RECORDS, CHUNK)]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, RECORDS - 1), st.integers(1, 20)), max_size=6))
def test_any_range_is_read_in_the_order_of_the_keys(path: str, ranges: list[tuple[int, int]]) -> None:
    reader = source(path)
    try:
        for start, length in ranges:
            stop = min(RECORDS, start + length)
            values, labels = np.empty((stop - start, 1, 1, 2), np.float32), np.empty(stop - start, np.float32)
            reader.fill(0, start, stop, [values, labels])
            assert labels.tolist() == values[:, 0, 0, 0].tolist() == list(range(start, stop))
    finally:
        reader.close()


def test_two_readers_share_a_database_that_neither_locks_nor_changes(path: str) -> None:
    before = listing(path)
    first, second = source(path), source(path)
    assert [record.label for record in first.read(3, 6)] == [record.label for record in second.read(3, 6)]
    assert len(shadows()) == 2
    first.close()
    second.close()
    assert listing(path) == before
    assert shadows() == []


@pytest.fixture(autouse=True)
def _shadows_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process that opens a LevelDB here would remove what looks left behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_the_shadow_of_a_process_that_was_killed_is_removed(path: str) -> None:
    stale = Path(tempfile.gettempdir()) / "gossip-caffe-leveldb-4194305-x"  # above any process id of Linux
    stale.mkdir(exist_ok=True)
    LevelDbDataSet(spec_of(path))
    assert not stale.exists()


def test_the_shadow_of_a_process_in_another_container_stays(path: str) -> None:
    # Its number means nothing here, but the lock that LevelDB holds does.
    shadow = Path(tempfile.gettempdir()) / "gossip-caffe-leveldb-4194306-x"
    shadow.mkdir(exist_ok=True)
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", hold, str(shadow / "LOCK")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        LevelDbDataSet(spec_of(path))
        assert shadow.exists()
        holder.communicate(b"\n", timeout=30)
    LevelDbDataSet(spec_of(path))
    assert not shadow.exists()


def test_a_process_that_ends_without_closing_removes_its_shadows(path: str) -> None:
    keys = LevelDbDataSet(spec_of(path)).chunk_keys(CHUNK)
    code = f"""
import tempfile
from pathlib import Path
from gossip_caffe.data.sources.leveldb_source import LevelDbSource
from gossip_caffe.job.spec.spec import SourceSpec, TopSpec
spec = SourceSpec("data", "leveldb", {path!r}, (TopSpec("data", ()),), {RECORDS}, chunk_keys={keys!r})
first, second = LevelDbSource(spec, {CHUNK}, 1), LevelDbSource(spec, {CHUNK}, 1)
first.close()
print(second._opened and len([*Path(tempfile.gettempdir()).iterdir()]))
"""
    with tempfile.TemporaryDirectory() as temporary:
        environment = {**os.environ, "TMPDIR": temporary}
        command = [sys.executable, "-c", code]
        ended = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60)
        assert ended.stdout == b"1\n"
        assert [*Path(temporary).iterdir()] == []


def test_a_flipped_bit_in_a_table_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "train"
    with plyvel.DB(str(path), create_if_missing=True, compression=None) as database:
        for index in range(3):
            datum = wire.Datum(channels=1, height=1, width=2, data=b"\x01\x02", label=index)
            database.put(b"%08d" % index, datum.SerializeToString())
        database.compact_range()
    table = next(file for file in path.iterdir() if file.suffix in {".ldb", ".sst"})
    content = table.read_bytes()
    table.write_bytes(content.replace(b"\x01\x02", b"\x01\x03", 1))
    reader = LevelDbSource(spec_of(str(path), 3, (b"00000000".hex(),)), 3, seed=1)
    try:
        with pytest.raises(DataError, match="key '00000000': the first record of chunk 0 is gone or broken"):
            list(reader.read(0, 3))
    finally:
        reader.close()


def test_records_that_moved_are_noticed_where_the_next_chunk_begins(path: str) -> None:
    keys = LevelDbDataSet(spec_of(path)).chunk_keys(CHUNK)
    reader = LevelDbSource(spec_of(path, RECORDS, (keys[0], b"00000008".hex(), *keys[2:])), CHUNK, seed=1)
    try:
        with pytest.raises(DataError, match="key '00000008': the first record of chunk 1 is gone or broken"):
            list(reader.read(5, 9))
    finally:
        reader.close()


def test_missing_empty_and_broken_databases_are_one_line_each(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no LevelDB at"):
        LevelDbDataSet(spec_of(str(tmp_path / "missing")))
    with pytest.raises(DataError, match="is empty"):
        LevelDbDataSet(spec_of(write(tmp_path / "empty", records=0)))
    broken = tmp_path / "broken"
    write(broken)
    for manifest in broken.glob("MANIFEST-*"):
        manifest.write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="cannot read the LevelDB at"):
        LevelDbDataSet(spec_of(str(broken)))
    assert shadows() == []


def test_other_data_than_the_job_was_made_for_is_refused(path: str) -> None:
    keys = LevelDbDataSet(spec_of(path)).chunk_keys(CHUNK)
    with pytest.raises(DataError, match="has 40 records, the job was made for 41"):
        LevelDbSource(spec_of(path, 41, keys), CHUNK, seed=1)
    reader = LevelDbSource(spec_of(path, RECORDS, ("00", *keys[1:])), CHUNK, seed=1)
    with pytest.raises(DataError, match="the first record of chunk 0 is gone"):
        list(reader.read(0, 1))
    reader.close()


def test_a_corrupt_record_is_named_by_its_key(tmp_path: Path) -> None:
    path = write(tmp_path / "train", records=3)
    with plyvel.DB(path) as database:
        database.put(b"00000001", b"\xff\xff")
    reader = LevelDbSource(spec_of(path, 3, (b"00000000".hex(),)), 3, seed=1)
    with pytest.raises(DataError, match="key '00000001': not a Datum"):
        list(reader.read(0, 3))
    reader.close()


def test_a_file_of_a_leveldb_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "CURRENT").write_text("MANIFEST-000002\n")
    with pytest.raises(DataError) as caught:
        LevelDbDataSet(spec_of(str(tmp_path / "CURRENT")))
    assert f"source: {str(tmp_path)!r}" in caught.value.remedy


def test_an_lmdb_is_told_from_a_leveldb(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"")
    with pytest.raises(DataError, match=r"there is no LevelDB at .*, but an LMDB \(backend: LMDB\)"):
        LevelDbDataSet(spec_of(str(tmp_path)))
