"""TensorBoard's event files: each byte as the format wants it, the figures of the event log, a disk that is full."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gossip_caffe.errors import EnvironmentProblem
from gossip_caffe.observe.export.crc32c import crc32c, masked_crc32c
from gossip_caffe.observe.export.event_file import EventFile
from gossip_caffe.observe.export.tensorboard import TensorBoardLog
from gossip_caffe.observe.log.events import Event, MemoryLog
from gossip_caffe.protofields import fields
from tests.fake_clock import FakeClock

Scalar = tuple[float, int, str, float]


@pytest.mark.parametrize(("content", "crc"), [
    (b"", 0),
    (b"123456789", 0xE3069283),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
])  # fmt: skip
def test_the_checksum_is_that_of_rfc_3720(content: bytes, crc: int) -> None:
    assert crc32c(content) == crc


def test_the_mask_rotates_and_adds() -> None:
    assert masked_crc32c(b"123456789") == 0xC78AB0E5  # of 0xE3069283


def records(path: Path) -> Iterator[bytes]:
    """The records of a file, each checked."""
    content = path.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        assert struct.unpack("<I", content[8:12]) == (masked_crc32c(content[:8]),)
        record, content = content[12 : 12 + length], content[12 + length :]
        assert struct.unpack("<I", content[:4]) == (masked_crc32c(record),)
        yield record
        content = content[4:]


def message(content: bytes | memoryview) -> list[tuple[int, Any]]:
    return [
        (field, bytes(value) if isinstance(value, memoryview) else value)
        for field, _, value in fields(memoryview(content))
    ]


def scalars(path: Path) -> list[Scalar]:
    """(Wall seconds, step, tag, value) of all scalars; the first record is checked to be the version."""
    first, *rest = (dict(message(record)) for record in records(path))
    assert first[3] == b"brain.Event:2"
    found = []
    for event in rest:
        (wall_s,) = struct.unpack("<d", event[1])
        for _, value in message(event[5]):
            parts = dict(message(value))
            found.append((wall_s, event[2], parts[1].decode(), struct.unpack("<f", parts[2])[0]))
    return found


def file_in(folder: Path, peer: str = "p0") -> Path:
    (path,) = (folder / peer).glob("events.out.tfevents.*")
    return path


def progress(iteration: int, **figures: Any) -> dict[str, Any]:
    usual = {"loss": 0.5, "learning_rate": 0.01, "distance": None, "stalled_share": 0.25, "samples": 64}
    return {"iteration": iteration, **usual, **figures}


TESTED = {
    "progress_samples": 6400,
    "iteration": 100,
    "outputs": [
        {"name": "accuracy", "means": [0.75], "values": 1, "loss_weight": 0.0, "net": 0},
        {"name": "loss", "means": [None], "values": 1, "loss_weight": 1.0, "net": 0},
        {"name": "histogram", "means": [0.1, 0.2], "values": 2, "loss_weight": 0.0, "net": 0},
        {"name": "accuracy", "means": [0.5], "values": 1, "loss_weight": 0.0, "net": 1},
    ],
    "seconds": 0.1,
    "mark": 1,
}


EXPECTED = [
    (1, "train/loss", 2.302585),
    (1, "train/learning_rate", 0.01),
    (1, "train/stalled_share", 0.25),
    (70, "train/loss", 0.5),
    (70, "train/learning_rate", 0.01),
    (70, "gossip/consensus_distance", 1e-4),
    (70, "train/stalled_share", 0.25),
    (100, "test/accuracy", 0.75),
    (100, "test-1/accuracy", 0.5),
]


def test_the_figures_of_training_and_of_tests_are_scalars_at_their_iteration(tmp_path: Path) -> None:
    memory, clock = MemoryLog(), FakeClock()
    log = TensorBoardLog(memory, tmp_path / "runs", "p0", clock, print)
    log.emit(Event.PROGRESS, **progress(1, loss=2.302585))
    log.emit(Event.EXCHANGED, outcome="applied")
    log.emit(Event.PROGRESS, **progress(70, distance=1e-4))
    log.emit(Event.TESTED, **TESTED)
    log.close()
    assert [event["event"] for event in memory.events] == ["progress", "exchanged", "progress", "tested"]
    found = scalars(file_in(tmp_path / "runs"))
    assert {wall_s for wall_s, _, _, _ in found} == {clock.wall()}
    assert [(step, tag) for _, step, tag, _ in found] == [(step, tag) for step, tag, _ in EXPECTED]
    assert [value for *_, value in found] == pytest.approx([value for *_, value in EXPECTED])


def test_every_process_has_a_file_that_only_its_user_can_read(tmp_path: Path) -> None:
    for peer in ("p0", "p1"):
        TensorBoardLog(MemoryLog(), tmp_path / "runs", peer, FakeClock(), print).close()
        assert file_in(tmp_path / "runs", peer).stat().st_mode & 0o777 == 0o600


class FullDisk:
    """A file on a disk that takes so many bytes more."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self.room = file, room

    def write(self, content: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = content[: self.room]
        self.room -= len(taken)
        return int(self._file.write(taken))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.mark.parametrize("room", [0, 1, 30, 60, 100, 150, 200])
def test_a_full_disk_costs_figures_is_said_once_and_leaves_no_torn_record(tmp_path: Path, room: int) -> None:
    said: list[str] = []
    log = TensorBoardLog(MemoryLog(), tmp_path, "p0", FakeClock(), said.append)
    disk = FullDisk(log._file._file, room)
    log._file._file = disk  # type: ignore[assignment]
    for iteration in range(3):
        log.emit(Event.PROGRESS, **progress(iteration))
    disk.room = 10**6
    log.emit(Event.PROGRESS, **progress(9))
    log.close()
    assert len(said) == 1
    assert "No space left on device" in said[0]
    steps = [step for _, step, _, _ in scalars(file_in(tmp_path))]
    assert steps[-1] == 9
    assert len(steps) < 12


def test_a_folder_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(EnvironmentProblem, match="--tensorboard"):
        TensorBoardLog(MemoryLog(), tmp_path / "runs", "p0", FakeClock(), print)


def test_a_value_that_is_not_finite_is_written_as_it_is_and_one_that_is_too_large_as_infinite(
    tmp_path: Path,
) -> None:
    file = EventFile(tmp_path / "f", 1.0)
    for value in (float("inf"), -1e300, float("nan")):
        file.write(2.0, 3, {"loss": value})
    file.close()
    *found, nan = (value for *_, value in scalars(tmp_path / "f"))
    assert found == [float("inf"), float("-inf")]
    assert nan != nan
