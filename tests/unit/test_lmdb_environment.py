"""An LMDB is opened once a process, with its lock where that can be had, and stays right while others write to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import lmdb
import numpy as np
import pytest

from gossip_caffe.data.sources import lmdb_environment
from gossip_caffe.data.sources.lmdb_environment import SharedLmdb
from gossip_caffe.data.sources.lmdb_source import LmdbDataSet, LmdbSource
from gossip_caffe.errors import DataError
from gossip_caffe.job.spec.spec import SourceSpec, TopSpec
from gossip_caffe.wire import caffe_wire_pb2 as wire

RECORDS, CHUNK = 400, 40

WRITER = """
import lmdb, sys
path, corrected = sys.argv[1], int(sys.argv[2])
value = sys.stdin.buffer.read()
with lmdb.open(path, map_size=1 << 26) as environment:
    for pass_ in range(5):
        with environment.begin(write=True) as writing:
            for index in range(200):
                writing.put(b"%08d" % (400 + 200 * pass_ + index), value)
            for index in range(0, 400, corrected) if corrected else ():
                writing.put(b"%08d" % index, value)
"""


def _datum(value: int, label: int) -> bytes:
    data = np.full(36, value, np.uint8).tobytes()
    return bytes(wire.Datum(channels=1, height=6, width=6, data=data, label=label).SerializeToString())


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = str(tmp_path / "data")
    with lmdb.open(path, map_size=1 << 26) as environment, environment.begin(write=True) as writing:
        for index in range(RECORDS):
            writing.put(b"%08d" % index, _datum(7, 1))
    return path


def _source(path: str) -> LmdbSource:
    keys = tuple((b"%08d" % index).hex() for index in range(0, RECORDS, CHUNK))
    tops = (TopSpec("data", (1, 6, 6)), TopSpec("label", ()))
    return LmdbSource(SourceSpec("data", "lmdb", path, tops, RECORDS, chunk_keys=keys), CHUNK, 1)


def _read(source: LmdbSource, start: int) -> tuple[set[float], set[float]]:
    values, labels = np.zeros((CHUNK, 1, 6, 6), np.float32), np.zeros(CHUNK, np.float32)
    source.fill(0, start, start + CHUNK, [values, labels])
    return set(values.reshape(-1).tolist()), set(labels.tolist())


def _write(path: str, corrected: int = 0) -> None:
    words = [sys.executable, "-P", "-c", WRITER, path, str(corrected)]
    subprocess.run(words, input=_datum(99, 9), check=True, timeout=60)


@pytest.mark.parametrize("corrected", [0, 20, 1])
def test_what_a_writer_adds_or_corrects_meanwhile_is_not_seen(path: str, corrected: int) -> None:
    source = _source(path)
    _write(path, corrected)
    for start in range(0, RECORDS, CHUNK):
        assert _read(source, start) == ({7.0}, {1.0})
    source.close()


def test_without_a_lock_a_write_is_named_as_the_cause(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = lmdb_environment._open

    def refused(path: str, *, lock: bool) -> lmdb.Environment:
        if lock:
            raise lmdb.Error("Permission denied")
        return real(path, lock=lock)

    monkeypatch.setattr(lmdb_environment, "_open", refused)
    source = _source(path)
    assert _read(source, 0) == ({7.0}, {1.0})
    _write(path)
    with pytest.raises(DataError, match="was written to while it is trained"):
        _read(source, CHUNK)
    source.close()


def test_a_process_opens_a_file_once_by_whatever_path(path: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(path)
    first, second = _source(path), _source(str(tmp_path / "link"))
    looked_at = LmdbDataSet(SourceSpec("d", "lmdb", path, (TopSpec("data", ()), TopSpec("label", ()))))
    assert looked_at.records == RECORDS
    first.close()
    assert _read(second, CHUNK) == ({7.0}, {1.0})
    second.close()
    second.close()
    assert not lmdb_environment._held


def test_a_reader_table_that_is_full_is_done_without(path: str) -> None:
    (Path(path) / "lock.mdb").unlink()
    with lmdb.open(path, max_readers=1) as environment, environment.begin():
        script = f"""
from gossip_caffe.data.sources.lmdb_environment import SharedLmdb, take_notices
shared = SharedLmdb({path!r})
print(shared.begin().stat()["entries"], shared.locked, *take_notices(), *take_notices())
"""
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
        )
    assert done.stdout.startswith(f"{RECORDS} False the LMDB at {path} has no place left for a reader")
    assert done.stdout.count("no place left") == 1


def test_places_of_readers_that_were_killed_are_free_again(path: str) -> None:
    script = f"""
import os, signal
from gossip_caffe.data.sources.lmdb_environment import SharedLmdb
reading = SharedLmdb({path!r}).begin()
os.kill(os.getpid(), signal.SIGKILL)
"""
    looks = f"from gossip_caffe.data.sources.lmdb_environment import SharedLmdb; SharedLmdb({path!r}).close()"
    with lmdb.open(path) as environment:  # whoever holds it open keeps the table as it is
        for _ in range(2):
            subprocess.run([sys.executable, "-c", script], timeout=60, check=False)
        assert len(environment.readers().splitlines()) == 2, "a heading, and only the newest of the two"
        subprocess.run([sys.executable, "-c", looks], timeout=60, check=True)
        assert "no active readers" in environment.readers()


@pytest.mark.parametrize("name", ["data.mdb", "lock.mdb"])
def test_a_file_of_an_lmdb_is_no_source(path: str, name: str) -> None:
    with pytest.raises(DataError) as caught:
        SharedLmdb(f"{path}/{name}")
    assert f"source: {path!r}" in caught.value.remedy


def test_a_source_that_is_not_there_says_what_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no LMDB at .*nowhere; check"):
        SharedLmdb(str(tmp_path / "nowhere"))
    (tmp_path / "CURRENT").write_text("MANIFEST-000002\n")
    with pytest.raises(DataError, match="but a LevelDB"):
        SharedLmdb(str(tmp_path))
