"""Trained batches share lines, and each of them is still there: its records, its number, its time, its place."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from gossip_caffe.observe.log.events import Event, read_events
from gossip_caffe.observe.log.parts import tail_of
from gossip_caffe.observe.log.reading import read_history
from gossip_caffe.observe.log.runs import MOST_BATCHES, RUN_S, LogInRuns, batches_of, one_by_one
from gossip_caffe.observe.log.writing import JsonLinesLog
from gossip_caffe.sim.logs import LifeLog, Lines
from tests.fake_clock import FakeClock

BATCH = 8


class Recorder:
    """An event log in a list, which holds everything, or nothing."""

    def __init__(self, *, holds: bool = True) -> None:
        self.lines: list[dict[str, Any]] = []
        self.held: list[int] = []
        self._holds = holds

    def emit(self, event: Event, **fields: object) -> None:
        self.lines.append({"event": event.value, **fields})

    def hold(self, event: Event, **fields: Any) -> bool:
        self.held.append(fields["sequence"])
        return self._holds


def batch(number: int, records: int = BATCH) -> dict[str, Any]:
    return {"sequence": number, "parts": [[0, number * BATCH, number * BATCH + records]]}


def train(log: LogInRuns, *numbers: int) -> None:
    for number in numbers:
        log.emit(Event.TRAINED, **batch(number))


async def test_batches_that_follow_each_other_share_a_line_with_the_time_of_each() -> None:
    lines, clock = Recorder(), FakeClock()
    log = LogInRuns(lines, clock)
    for number, pause_s in enumerate((0.02, 0.3, 0.0)):
        train(log, number)
        await clock.advance(pause_s)
    assert lines.lines == []
    assert lines.held == [0, 1, 2]
    log.emit(Event.LEFT)
    run, left = lines.lines
    assert left["event"] == Event.LEFT
    assert run == {
        "event": "trained",
        "sequence": 0,
        "batches": 3,
        "since_s": 0.32,
        "gaps_ms": [20, 300],
        "ranges": [[0, 0, 24]],
    }
    again = list(batches_of({**run, "t": 100.0, "m": 10.0, "peer": "a"}))
    assert [(one["sequence"], one["parts"], one["m"], one["t"]) for one in again] == [
        (0, [[0, 0, 8]], 9.68, 99.68),
        (1, [[0, 8, 16]], 9.7, 99.7),
        (2, [[0, 16, 24]], 10.0, 100.0),
    ]
    assert all(one.keys() == {"event", "peer", "t", "m", "sequence", "parts"} for one in again)


async def test_a_batch_alone_whose_line_is_written_later_keeps_its_own_time() -> None:
    """A real one: the last batch of a peer that leaves seemed to be trained after the exchange that shared it."""
    lines, clock = Recorder(), FakeClock()
    log = LogInRuns(lines, clock)
    train(log, 0)
    await clock.advance(0.05)
    log.emit(Event.LEFT)
    (one,) = batches_of({**lines.lines[0], "t": 100.0, "m": 10.0, "peer": "a"})
    assert (one["m"], one["t"], one["parts"]) == (9.95, 99.95, [[0, 0, 8]])
    train(log, 1)
    log.emit(Event.LEFT)
    assert lines.lines[2] == {"event": "trained", **batch(1)}


async def test_a_run_ends_at_another_number_another_size_its_greatest_length_and_its_greatest_time() -> None:
    lines, clock = Recorder(), FakeClock()
    log = LogInRuns(lines, clock)
    train(log, 0, 1, 5, 6)
    log.emit(Event.TRAINED, **batch(7, 3))
    train(log, *range(8, 8 + MOST_BATCHES + 1))
    await clock.advance(RUN_S)
    train(log, 9 + MOST_BATCHES)
    log.end_run()
    log.end_run()
    found = [(line["sequence"], line.get("batches", 1)) for line in lines.lines]
    assert found == [(0, 2), (5, 2), (7, 1), (8, MOST_BATCHES), (8 + MOST_BATCHES, 1), (9 + MOST_BATCHES, 1)]


async def test_only_events_beside_it_leave_a_run_open_and_not_longer_than_its_time() -> None:
    lines, clock = Recorder(), FakeClock()
    log = LogInRuns(lines, clock)
    for event in Event:
        if event is Event.TRAINED:
            continue
        lines.lines.clear()
        train(log, 0, 1)
        log.emit(event)
        ended = lines.lines[0]["event"] == Event.TRAINED
        assert ended == (event.value not in {
            "offered", "exchanged", "half-applied", "corrected", "displayed", "progress"
        })  # fmt: skip
        log.end_run()
    lines.lines.clear()
    train(log, 0)
    await clock.advance(RUN_S)
    log.emit(Event.PROGRESS)
    assert [line["event"] for line in lines.lines] == [Event.TRAINED, Event.PROGRESS]


def test_a_batch_that_cannot_be_held_is_written_at_once() -> None:
    lines = Recorder(holds=False)
    log = LogInRuns(lines, FakeClock())
    train(log, 0, 1)
    assert [line["sequence"] for line in lines.lines] == [0, 1]


def test_any_batches_come_back_from_their_runs_as_they_were() -> None:
    rng = random.Random(5)
    lines = Recorder()
    log = LogInRuns(lines, FakeClock())
    written: list[tuple[int, list[list[int]]]] = []
    sequence = 0
    for _ in range(2000):
        if rng.random() < 0.02:
            sequence = max(0, sequence - rng.randrange(20))  # a solver died
            log.emit(Event.SOLVER_DIED)
        records = BATCH if rng.random() < 0.9 else rng.randrange(1, BATCH)
        parts, epoch, start = [], rng.randrange(3), BATCH * rng.randrange(20)
        while records:
            taken = rng.randint(1, records)
            parts.append([epoch, start, start + taken])
            records -= taken
            epoch, start = rng.choice(
                [(epoch, start + taken), (epoch + 1, 0), (epoch, BATCH * rng.randrange(20))]
            )
        log.emit(Event.TRAINED, sequence=sequence, parts=parts)
        written.append((sequence, parts))
        sequence += 1
    log.end_run()
    assert len(lines.lines) < 1000
    found = [
        (line["sequence"], line["parts"]) for line in one_by_one(lines.lines) if line["event"] == "trained"
    ]
    assert [(number, records_of(parts)) for number, parts in found] == [
        (number, records_of(parts)) for number, parts in written
    ]


def records_of(parts: list[list[int]]) -> list[tuple[int, int]]:
    return [(epoch, record) for epoch, start, stop in parts for record in range(start, stop)]


# ── the tail ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def numbers(folder: Path) -> list[int]:
    return [line["sequence"] for line in one_by_one(read_history(folder, "a").events) if "sequence" in line]


async def test_a_kill_at_any_moment_loses_no_batch_and_counts_none_twice(tmp_path: Path) -> None:
    """Every state of the two files that a writer passes through, each as a killed writer leaves it."""
    clock = FakeClock()
    file = JsonLinesLog(tmp_path, "a", clock)
    log = LogInRuns(file, clock)
    log.emit(Event.STARTED)
    states: list[tuple[int, bytes, bytes]] = []

    def note(trained: int) -> None:
        states.append((trained, (tmp_path / "a.jsonl").read_bytes(), tail_of(tmp_path, "a").read_bytes()))

    clear = file._tail.clear

    def noted_before_it_is_cleared() -> None:
        note(trained)
        clear()

    file._tail.clear = noted_before_it_is_cleared  # type: ignore[method-assign]
    trained = 0
    for number in range(60):
        trained = number
        train(log, number)
        trained += 1
        note(trained)
        await clock.advance(0.07)
        if number % 7 == 3:
            log.emit(Event.EXCHANGED)
        if number % 11 == 5:
            log.emit(Event.DONE, epoch=0, chunks=[])
            note(trained)
    for place, (count, lines, tail) in enumerate(states):
        folder = tmp_path / f"state-{place}"
        folder.mkdir()
        (folder / "a.jsonl").write_bytes(lines)
        tail_of(folder, "a").write_bytes(tail)
        assert numbers(folder) == list(range(count)), place
        for torn in (tail[:-1], tail[:-20]) if tail else ():
            tail_of(folder, "a").write_bytes(torn)
            assert numbers(folder) in (list(range(count - 1)), list(range(count))), place
        tail_of(folder, "a").write_bytes(tail)
        again = JsonLinesLog(folder, "a", clock)  # the next process of that name
        again.emit(Event.STARTED)
        again.close()
        assert numbers(folder) == list(range(count)), place
        assert not tail_of(folder, "a").exists()
        assert [line["event"] for line in read_history(folder, "a").events][-1] == Event.STARTED


def test_a_tail_is_of_the_newest_process_whatever_the_clock_of_an_earlier_boot_was(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"t":1,"m":900.0,"event":"trained","sequence":0,"parts":[[0,0,8]]}\n{"t":2,"m":3.0,"event":"started"}\n'
    )
    tail_of(tmp_path, "a").write_text('{"t":3,"m":5.0,"event":"trained","sequence":0,"parts":[[0,8,16]]}\n')
    assert [line["parts"] for line in read_history(tmp_path, "a").events if "parts" in line] == [
        [[0, 0, 8]],
        [[0, 8, 16]],
    ]


async def test_a_held_batch_stands_among_the_exchanges_of_its_time(tmp_path: Path) -> None:
    clock = FakeClock()
    log = LogInRuns(JsonLinesLog(tmp_path, "a", clock), clock)
    log.emit(Event.CLAIMED)
    for number in range(3):
        await clock.advance(0.1)
        train(log, number)
        await clock.advance(0.1)
        log.emit(Event.EXCHANGED, exchange=str(number))
    kinds = [line["event"] for line in read_history(tmp_path, "a").events]
    assert kinds == ["claimed", *["trained", "exchanged"] * 3]
    assert [line["event"] for line in read_events(tmp_path / "a.jsonl")] == ["claimed", *["exchanged"] * 3]


def test_the_simulators_log_is_at_every_moment_what_a_reader_of_files_would_get() -> None:
    clock, lines = FakeClock(), Lines()
    life = LifeLog(lines, "a", clock)
    log = LogInRuns(life, clock)
    train(log, 0, 1)
    log.emit(Event.EXCHANGED)
    train(log, 2)
    assert [line.get("sequence") for line in lines] == [0, 1, None, 2]
    log.emit(Event.DONE)
    assert [(line["event"], line.get("batches")) for line in lines] == [
        ("exchanged", None),
        ("trained", 3),
        ("done", None),
    ]
    train(log, 3)
    life.die()
    log.emit(Event.LEFT)
    assert [line.get("sequence") for line in lines] == [None, 0, None, 3]
