"""A peer's event log on a disk that takes what it likes."""

from __future__ import annotations

import errno
import random
from pathlib import Path
from typing import Any

import pytest

from gossip_caffe.errors import EnvironmentProblem, UsageError
from gossip_caffe.observe.history.run import Run
from gossip_caffe.observe.log.events import Event, read_events
from gossip_caffe.observe.log.writing import JsonLinesLog
from tests.fake_clock import FakeClock


class Disk:
    """A file on a disk that has room for so many bytes more."""

    def __init__(self, file: Any, room: float) -> None:
        self._file, self.room = file, room

    def write(self, content: bytes) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = content[: int(min(self.room, len(content)))]
        self.room -= len(taken)
        return int(self._file.write(taken))

    def close(self) -> None:
        self._file.close()


@pytest.mark.parametrize("seed", range(30))
def test_a_full_disk_costs_events_and_says_how_many_and_no_line_garbles_another(
    tmp_path: Path, seed: int
) -> None:
    rng, said = random.Random(seed), list[str]()
    path = tmp_path / "events" / "a.jsonl"
    log = JsonLinesLog(path.parent, "a", FakeClock(), said.append)
    disk = Disk(log._log.file, 1e9)
    log._log.file = disk  # type: ignore[assignment]
    for number in range(200):
        if number % 20 == 5:
            disk.room = rng.randrange(300)
        if number % 20 == 15:
            disk.room = 1e9
        log.emit(Event.TRAINED, sequence=number)
    log.close()
    assert len(said) == 1
    assert "No space left on device" in said[0]
    expected = 0
    for event in read_events(path):
        if event["event"] == Event.LOG_GAP:
            expected += int(str(event["dropped"]))
        else:
            assert event["sequence"] == expected
            expected += 1
    assert expected == 200


def test_a_run_of_which_events_are_missing_is_not_judged() -> None:
    gap = {"t": 1.0, "m": 1.0, "peer": "a", "event": "log-gap", "dropped": 7}
    with pytest.raises(UsageError, match="the log of a lacks 7 events"):
        Run.of_logs({"a": [{**gap, "event": "started"}, gap]})


def test_a_run_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("")
    with pytest.raises(EnvironmentProblem, match=r"cannot write .*a\.jsonl"):
        JsonLinesLog(tmp_path / "events", "a", FakeClock())
