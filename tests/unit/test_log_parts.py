"""An event log in parts: they are read as one history, compressed beside the peer, bounded, and missed when missing."""

from __future__ import annotations

import errno
import gzip
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gossip_caffe.cli.main import cli
from gossip_caffe.errors import NotFound
from gossip_caffe.observe.checker.verdict import InvariantStatus, verdict, verdict_of
from gossip_caffe.observe.history.account import account_of
from gossip_caffe.observe.history.run import Run
from gossip_caffe.observe.log.compressing import ClosedParts, compress
from gossip_caffe.observe.log.events import Event, read_events
from gossip_caffe.observe.log.following import LogFollower, LogTail
from gossip_caffe.observe.log.parts import closed_parts, parts_of, peers_in
from gossip_caffe.observe.log.reading import read_histories, read_history
from gossip_caffe.observe.log.writing import JsonLinesLog, LineFile
from gossip_caffe.observe.report.page import report_of
from tests.fake_clock import FakeClock
from tests.unit.test_verdict import SEEN, Log, whole, write

JUDGED_ALONE = {"finite-weights", "loud-errors", "no-silent-end", "whole-round"}


def at_once(do: Callable[[], object], name: str) -> threading.Thread:
    """A thread that has ended already."""
    do()
    return threading.Thread(name=name)


def log_in(folder: Path, part_bytes: int = 400, most_bytes: int = 0, peer: str = "a") -> JsonLinesLog:
    closed = ClosedParts(folder, peer, print, most_bytes, begin=at_once)
    return JsonLinesLog(folder, peer, FakeClock(), part_bytes=part_bytes, after_closing=closed.begin)


def fill(log: JsonLinesLog, first: int, last: int) -> None:
    for number in range(first, last):
        log.emit(Event.PROGRESS, iteration=number)


def iterations(events: Any) -> list[int]:
    return [event["iteration"] for event in events if event["event"] == Event.PROGRESS]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_log_of_many_parts_is_one_history_in_the_order_of_their_names(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    fill(log, 0, 60)
    log.close()
    assert names(tmp_path)[:2] == ["a+000001.jsonl.gz", "a+000002.jsonl.gz"]
    assert names(tmp_path)[-1] == "a.jsonl"
    assert len(names(tmp_path)) > 10
    in_order = [event for name in names(tmp_path) for event in read_events(tmp_path / name)]
    assert iterations(in_order) == list(range(60))
    history = read_history(tmp_path, "a")
    assert iterations(history.events) == list(range(60))
    assert history.missing == ()
    assert not any(event["event"] == Event.LOG_PART for event in history.events)


def test_the_next_process_of_a_name_goes_on_with_the_open_part(tmp_path: Path) -> None:
    for first in range(0, 30, 10):
        log = log_in(tmp_path)
        log.emit(Event.STARTED)
        fill(log, first, first + 10)
        log.close()
    assert iterations(read_history(tmp_path, "a").events) == list(range(30))
    assert [part.number for part in parts_of(tmp_path, "a")] == list(range(1, len(names(tmp_path)) + 1))


def test_parts_belong_to_the_peer_of_their_name(tmp_path: Path) -> None:
    for peer in ("p0", "p0.1", "p0-1", "p00"):
        log = log_in(tmp_path, peer=peer)
        fill(log, 0, 20)
        log.close()
    (tmp_path / ".p0+000009.jsonl.gz").write_bytes(b"unfinished")
    (tmp_path / "notes.txt").write_text("")
    assert peers_in(tmp_path) == ["p0", "p0-1", "p0.1", "p00"]
    for peer, history in read_histories(tmp_path).items():
        assert {event["peer"] for event in history.events} == {peer}
        assert iterations(history.events) == list(range(20))


# ── kills and disks ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "killed", ["before it is compressed", "while it is compressed", "after it is compressed"]
)
def test_a_kill_between_closing_and_compressing_loses_nothing(tmp_path: Path, killed: str) -> None:
    log = JsonLinesLog(tmp_path, "a", FakeClock(), part_bytes=400)
    fill(log, 0, 20)
    log.close()
    first = closed_parts(tmp_path, "a")[0].path
    if killed == "while it is compressed":
        (tmp_path / f".{first.name}.gz").write_bytes(gzip.compress(first.read_bytes())[:30])
    if killed == "after it is compressed":
        (tmp_path / f"{first.name}.gz").write_bytes(gzip.compress(first.read_bytes()))
    assert iterations(read_history(tmp_path, "a").events) == list(range(20))
    log = log_in(tmp_path)
    fill(log, 20, 22)
    log.close()
    assert all(part.compressed for part in closed_parts(tmp_path, "a"))
    assert iterations(read_history(tmp_path, "a").events) == list(range(22))


def test_a_kill_between_closing_a_part_and_opening_the_next_loses_nothing(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    fill(log, 0, 20)
    log.close()
    before = parts_of(tmp_path, "a")[-1]
    before.path.rename(tmp_path / f"a+{before.number:06d}.jsonl")
    assert iterations(read_history(tmp_path, "a").events) == list(range(20))
    log = log_in(tmp_path)
    fill(log, 20, 22)
    log.close()
    history = read_history(tmp_path, "a")
    assert (iterations(history.events), history.missing) == (list(range(22)), ())


def test_a_disk_that_refuses_a_new_file_lets_the_open_part_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = log_in(tmp_path)
    refused = OSError(errno.ENOSPC, "No space left on device")

    def refuse(self: LineFile, path: Path) -> None:
        raise refused

    with monkeypatch.context() as patch:
        patch.setattr(LineFile, "__init__", refuse)
        fill(log, 0, 20)
    assert names(tmp_path) == ["a.jsonl", "a.tail"]
    fill(log, 20, 40)
    log.close()
    assert "a+000001.jsonl.gz" in names(tmp_path)
    assert iterations(read_history(tmp_path, "a").events) == list(range(40))


def test_a_part_that_cannot_be_compressed_stays_and_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    closed = ClosedParts(tmp_path, "a", said.append, begin=at_once)
    log = JsonLinesLog(tmp_path, "a", FakeClock(), part_bytes=400, after_closing=closed.begin)

    def refuse(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("gossip_caffe.observe.log.compressing.compress", refuse)
        fill(log, 0, 20)
    assert said == ["a: a part of its event log stays uncompressed (No space left on device)"]
    assert not any(part.compressed for part in closed_parts(tmp_path, "a"))
    fill(log, 20, 30)
    assert all(part.compressed for part in closed_parts(tmp_path, "a"))
    assert iterations(read_history(tmp_path, "a").events) == list(range(30))


def test_a_failed_compression_leaves_the_part_and_nothing_half_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = tmp_path / "a+000001.jsonl"
    part.write_text('{"event":"progress"}\n')

    def refuse(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("gossip_caffe.observe.log.compressing.flush", refuse)
    with pytest.raises(OSError, match="Input/output"):
        compress(part)
    assert names(tmp_path) == ["a+000001.jsonl"]


def test_a_bounded_log_loses_its_oldest_parts_and_says_it_once(tmp_path: Path) -> None:
    said: list[str] = []
    closed = ClosedParts(tmp_path, "a", said.append, 2000, begin=at_once)
    log = JsonLinesLog(tmp_path, "a", FakeClock(), part_bytes=500, after_closing=closed.begin)
    fill(log, 0, 200)
    log.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2500
    assert len(said) == 1
    assert "has reached 2,000 bytes" in said[0]
    history = read_history(tmp_path, "a")
    kept = iterations(history.events)
    assert kept[0] > 0
    assert kept == list(range(kept[0], 200))
    first = parts_of(tmp_path, "a")[0].number
    assert history.missing == (f"parts 1 to {first - 1} of the log of a are missing",)


# ── the verdict ───────────────────────────────────────────────────────────────────────────────────────────────────────


def in_parts(run_dir: Path, logs: dict[str, Log], parts: int, peer: str = "a") -> None:
    """Write the logs, that of ``peer`` in so many parts, each with a few of its events."""
    write(run_dir, logs)
    folder, lines = run_dir / "events", (run_dir / "events" / f"{peer}.jsonl").read_text().splitlines(True)
    each = -(-len(lines) // parts)
    for number in range(1, parts + 1):
        some = lines[(number - 1) * each : number * each]
        if number > 1:
            some.insert(
                0, f'{{"t":0,"m":0,"peer":"{peer}","event":"log-part","number":{number},"schema":3}}\n'
            )
        name = f"{peer}.jsonl" if number == parts else f"{peer}+{number:06d}.jsonl"
        (folder / name).write_text("".join(some))
        if number < parts - 1:
            compress(folder / name)


def test_a_run_of_ten_parts_is_judged_like_the_same_run_in_one(tmp_path: Path) -> None:
    in_parts(tmp_path, whole(), 10)
    assert len(names(tmp_path / "events")) == 12
    found = verdict_of(tmp_path)
    assert found == verdict(whole())
    assert found.counters.records_lost == 0
    assert not found.missing
    assert "are missing" not in report_of(tmp_path)


@pytest.mark.parametrize(("gone", "words"), [
    (("a+000001.jsonl.gz",), "part 1 of the log of a is missing"),
    (("a+000003.jsonl.gz", "a+000004.jsonl.gz"), "parts 3 to 4 of the log of a are missing"),
    (("a+000009.jsonl",), "part 9 of the log of a is missing"),
])  # fmt: skip
def test_without_a_part_nothing_is_called_broken_that_is_not_and_the_verdict_says_why(
    tmp_path: Path, gone: tuple[str, ...], words: str
) -> None:
    in_parts(tmp_path, whole(), 10)
    (tmp_path / "observer.jsonl").write_text("")
    for name in gone:
        (tmp_path / "events" / name).unlink()
    found = verdict_of(tmp_path)
    assert not found.broken
    assert found.missing == (words,)
    for finding in found.findings:
        if finding.invariant in JUDGED_ALONE:
            assert "is missing" not in finding.reason
        else:
            assert finding.standing is InvariantStatus.UNSEEN
            assert finding.reason.startswith(f"{words}: it may hold ")
    assert found.counters.records_lost is None
    assert words in CliRunner().invoke(cli, ["verify", str(tmp_path)]).output
    assert words in report_of(tmp_path)
    with pytest.raises(NotFound, match=words):
        account_of(tmp_path, Run.of_logs(whole()).work)  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", [b"", b"no gzip", None])
def test_a_damaged_part_counts_as_missing(tmp_path: Path, damage: bytes | None) -> None:
    in_parts(tmp_path, whole(), 10)
    part = tmp_path / "events" / "a+000002.jsonl.gz"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 0x55
    part.write_bytes(bytes(content) if damage is None else damage)
    found = verdict_of(tmp_path)
    assert not found.broken
    assert found.missing[0].startswith("part 2 of the log of a is damaged")


def test_any_part_may_be_missing_from_any_log(tmp_path: Path) -> None:
    """An invariant that holds in the whole run is never called broken."""
    for peer in ("a", "b", "x"):
        for number in range(1, 6):
            run_dir = tmp_path / f"{peer}-{number}"
            run_dir.mkdir()
            in_parts(run_dir, whole(), 6, peer)
            for path in (run_dir / "events").glob(f"{peer}+{number:06d}*"):
                path.unlink()
            assert not verdict_of(run_dir).broken, (peer, number)
    assert SEEN


def test_a_schema_that_is_newer_is_refused_in_words(tmp_path: Path) -> None:
    logs = whole()
    logs["b"][0]["schema"] = 99
    write(tmp_path, logs)
    found = CliRunner().invoke(cli, ["verify", str(tmp_path)])
    assert "the log of b is of schema 99, which is newer" in str(found.exception)


# ── following ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("look_every", [1, 3, 17, 59])
@pytest.mark.parametrize("compressed", [True, False])
def test_a_log_is_followed_through_its_parts_however_many_are_closed_between_two_looks(
    tmp_path: Path, look_every: int, compressed: bool
) -> None:
    log = log_in(tmp_path) if compressed else JsonLinesLog(tmp_path, "a", FakeClock(), part_bytes=400)
    tail, follower, found = LogTail(tmp_path, "a"), LogFollower(tmp_path, {"progress"}), list[int]()
    for number in range(60):
        fill(log, number, number + 1)
        if number % look_every == look_every - 1:
            found += iterations(tail.new())
            follower.new()
    log.close()
    found += iterations(tail.new())
    assert found == list(range(60))
    assert tail.new() == []
    tail.close()
    assert iterations(LogTail(tmp_path, "a").new()) == list(range(60))


def test_a_part_that_is_removed_while_it_is_followed_is_read_to_its_end(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    fill(log, 0, 2)
    tail = LogTail(tmp_path, "a")
    assert iterations(tail.new()) == [0, 1]
    fill(log, 2, 30)
    for part in closed_parts(tmp_path, "a")[:3]:
        part.path.unlink()
    found = iterations(tail.new())
    first = iterations(read_history(tmp_path, "a").events)[0]
    assert found[:2] == [2, 3]
    assert found[-1] == 29
    assert set(range(first, 30)) <= set(found)
    shutil.rmtree(tmp_path)
    assert tail.new() == []
