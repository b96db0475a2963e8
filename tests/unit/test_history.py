"""The account of a run from its logs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossip_caffe.observe.history.account import Account, account
from gossip_caffe.observe.log.events import Event, read_events
from gossip_caffe.observe.log.writing import JsonLinesLog
from tests.fake_clock import FakeClock


@dataclass(frozen=True)
class Data:
    records: int = 20
    chunk_records: int = 10


@dataclass(frozen=True)
class Job:
    budget_samples: int
    data: Data = Data()


def trained(*parts: tuple[int, int, int]) -> dict[str, Any]:
    return {"event": "trained", "sequence": 0, "parts": [list(part) for part in parts]}


def done(epoch: int, *chunks: int) -> dict[str, Any]:
    return {"event": "done", "epoch": epoch, "chunks": list(chunks), "via": "x"}


LEFT: dict[str, Any] = {"event": "left", "reason": "drained"}
JOINED: dict[str, Any] = {"event": "joined", "checkpoint": "c", "progress_samples": 0}


def figures(found: Account) -> tuple[int, int, int]:
    return found.records_trained, found.records_lost, found.records_twice


def test_a_quiet_run_learns_every_record_once() -> None:
    logs = {
        "a": [JOINED, trained((0, 0, 10)), done(0, 0), LEFT],
        "b": [JOINED, trained((0, 10, 20)), done(0, 1), LEFT],
    }
    found = account(logs, Job(20))
    assert figures(found) == (20, 0, 0)
    assert (found.peers_joined, found.peers_killed) == (2, 0)


def test_what_a_killed_peer_trained_and_another_trained_again_counts_twice_and_is_not_lost() -> None:
    logs = {"a": [trained((0, 0, 10))], "b": [trained((0, 10, 20), (0, 0, 10)), done(0, 0, 1), LEFT]}
    found = account(logs, Job(20))
    assert figures(found) == (20, 0, 10)
    assert found.peers_killed == 1


def test_a_record_that_nobody_trained_is_lost_although_its_chunk_was_settled() -> None:
    assert figures(account({"a": [trained((0, 0, 9)), done(0, 0), LEFT]}, Job(10))) == (9, 1, 0)


def test_a_record_that_was_trained_and_never_settled_is_lost_when_its_peer_lived_on() -> None:
    assert figures(account({"a": [trained((0, 0, 20)), done(0, 1), LEFT]}, Job(20))) == (10, 10, 0)


def test_a_peer_killed_between_settling_and_writing_it_down_is_believed_when_it_had_shared_that() -> None:
    shared = {"event": "exchanged", "side": "offered", "outcome": "applied", "exchange": "x", "batches": 1}
    made = {"event": "checkpointed", "checkpoint": "c", "batches": 1}
    for carrier in (shared, made):
        logs = {"a": [trained((0, 0, 20)), carrier, done(0, 0)]}
        assert figures(account(logs, Job(20))) == (20, 0, 0)


def test_what_a_killed_peer_shared_with_nobody_and_nobody_trained_again_is_lost() -> None:
    before = {"event": "exchanged", "side": "offered", "outcome": "applied", "exchange": "x", "batches": 1}
    later = {**trained((0, 10, 20)), "sequence": 1}
    refused = {**before, "outcome": "refused", "exchange": "y", "batches": 2}
    logs = {"a": [trained((0, 0, 10)), before, later, refused]}
    assert figures(account(logs, Job(20))) == (10, 10, 0)


def test_a_settlement_whose_outcome_was_not_learned_counts_when_nobody_else_settled_the_chunk() -> None:
    unknown = {"event": "settlement-unknown", "epoch": 0, "chunks": [0, 1], "via": "x"}
    logs = {"a": [trained((0, 0, 20)), unknown, LEFT], "b": [trained((0, 10, 15)), done(0, 1), LEFT]}
    assert figures(account(logs, Job(20))) == (15, 5, 5)


def test_a_corrupt_record_that_was_left_out_is_skipped_and_not_lost() -> None:
    skipped = {"event": "record-skipped", "epoch": 0, "record": 3, "reason": "key '3': not a Datum"}
    found = account(
        {"a": [skipped, trained((0, 0, 10)), skipped, trained((0, 0, 10)), done(0, 0), LEFT]}, Job(10)
    )
    assert (figures(found), found.records_skipped) == ((9, 0, 9), 1)
    other = account(
        {"a": [skipped, trained((0, 0, 10)), LEFT], "b": [trained((0, 0, 10)), done(0, 0), LEFT]}, Job(10)
    )
    assert (figures(other), other.records_skipped) == ((10, 0, 9), 0)


def test_a_solver_that_trains_a_batch_again_counts_it_twice() -> None:
    logs = {"a": [trained((0, 0, 10)), trained((0, 0, 10)), done(0, 0), LEFT]}
    assert figures(account(logs, Job(10))) == (10, 0, 10)


def test_each_epoch_counts_for_itself_and_the_last_may_be_partial() -> None:
    logs = {"a": [trained((0, 0, 20), (1, 0, 10)), done(0, 0, 1), done(1, 0), LEFT]}
    assert figures(account(logs, Job(30))) == (30, 0, 0)
    assert figures(account(logs, Job(40))) == (30, 10, 0)


def test_exchanges_are_counted_by_outcome() -> None:
    logs = {
        "a": [{"event": "exchanged", "outcome": "applied"}, {"event": "exchanged", "outcome": "failed"}, LEFT]
    }
    assert account(logs, Job(10)).exchanges == {"applied": 1, "failed": 1}


def test_an_exchange_that_only_its_answering_side_applied_is_half_applied_and_its_mass_is_known() -> None:
    def answered(exchange: str, half_sum: float) -> dict[str, Any]:
        half = {"half_sum": half_sum, "half_norm": abs(half_sum)}
        return {"event": "exchanged", "exchange": exchange, "side": "answered", "outcome": "applied", **half}

    def offered(exchange: str, outcome: str) -> dict[str, Any]:
        return {"event": "exchanged", "exchange": exchange, "side": "offered", "outcome": outcome}

    logs: dict[str, list[dict[str, Any]]] = {
        "a": [offered("1", "applied"), offered("2", "failed"), offered("3", "failed"), LEFT],
        "b": [answered("1", 4.0), answered("2", 0.5), LEFT],
        "c": [answered("killed-4", -2.0), LEFT],
    }
    found = account(logs, Job(10))
    assert found.exchanges == {"applied": 1, "failed": 2}
    assert (found.half_applied, found.mass_error) == (2, -1.5)


def resumed(at: float, folded: int, **done: list[int]) -> dict[str, Any]:
    kept = {epoch.removeprefix("e"): chunks for epoch, chunks in done.items()}
    return {"event": "resumed", "t": at, "checkpoint": "c", "folded": folded, "done": kept}


def at(seconds: float, event: dict[str, Any]) -> dict[str, Any]:
    return {**event, "t": seconds}


FORTY = Data(records=40)


def test_what_a_job_lost_by_going_back_to_a_checkpoint_counts_only_when_it_is_trained_again() -> None:
    before = [at(1, trained((0, 0, 30))), at(2, done(0, 0, 1)), at(3, done(0, 2))]
    after = [at(9, resumed(9, 0, e0=[0])), at(10, trained((0, 10, 20))), at(11, done(0, 1)), at(12, LEFT)]
    assert figures(account({"a": before, "b": after}, Job(30, FORTY))) == (20, 10, 10)
    more = [*after[:-1], at(12, trained((0, 20, 30))), at(13, done(0, 2)), at(14, LEFT)]
    assert figures(account({"a": before, "b": more}, Job(30, FORTY))) == (30, 0, 20)


def test_what_a_killed_peer_trained_after_the_checkpoint_is_not_credited_to_it() -> None:
    made = {"event": "checkpointed", "checkpoint": "c", "batches": 1}
    killed = [at(1, trained((0, 0, 20))), at(2, made)]
    assert figures(account({"a": killed, "b": [at(9, resumed(9, 0, e0=[0])), LEFT]}, Job(20))) == (10, 10, 0)


def test_a_clock_that_is_set_back_takes_nothing_back_that_was_trained_after_a_resume() -> None:
    after = [at(10, trained((0, 0, 10))), at(7, trained((0, 10, 20))), at(8, done(0, 0, 1)), at(9, LEFT)]
    found = account({"a": [at(9, resumed(9, 0)), LEFT], "b": after}, Job(20))
    assert figures(found) == (20, 0, 0)


def test_a_peer_that_stood_still_while_the_job_went_back_still_has_what_it_trained_and_settles_it() -> None:
    def settled(since: int) -> dict[str, Any]:
        return at(11, {**done(0, 0, 1), "revisions": [since, since]})

    resume = at(9, {**resumed(9, 0), "revision": 40})
    before = [at(2, trained((0, 0, 20)))]
    others = {"b": [resume, LEFT]}
    assert figures(account({"a": [*before, settled(41), LEFT], **others}, Job(20))) == (20, 0, 0)
    assert figures(account({"a": [*before, settled(39), LEFT], **others}, Job(20))) == (0, 20, 0)
    itself = {"a": [*before, resume, settled(41), LEFT]}  # it has the checkpoint's weights since then
    assert figures(account(itself, Job(20))) == (0, 20, 0)


def claimed(since: int, *chunks: int) -> dict[str, Any]:
    owned = {"chunks": list(chunks), "revisions": [since] * len(chunks), "lease": 1}
    return {"event": "claimed", "epoch": 0, **owned}


def settled(since: int, *chunks: int) -> dict[str, Any]:
    return {**done(0, *chunks), "revisions": [since] * len(chunks)}


def test_what_another_peer_trained_after_a_resume_counts_although_its_clock_is_behind_the_resumers() -> None:
    resumer = [at(100, {**resumed(100, 0), "revision": 40}), at(101, claimed(41, 0))]
    resumer += [at(102, trained((0, 0, 10))), at(103, settled(41, 0)), at(104, LEFT)]
    behind = [at(41, JOINED), at(42, claimed(42, 1)), at(43, trained((0, 10, 20)))]
    behind += [at(44, settled(42, 1)), at(45, LEFT)]
    assert figures(account({"a": resumer, "b": behind}, Job(20))) == (20, 0, 0)


def test_what_was_trained_before_a_resume_is_taken_back_although_its_writers_clock_is_ahead() -> None:
    ahead = [at(161, claimed(30, 0, 1)), at(162, trained((0, 0, 20))), at(163, settled(30, 0, 1))]
    resumer = [at(100, {**resumed(100, 0, e0=[0]), "revision": 40}), at(101, claimed(41, 1))]
    lost = account({"a": ahead, "b": [*resumer, at(104, LEFT)]}, Job(20))
    assert figures(lost) == (10, 10, 0)
    again = [*resumer, at(102, trained((0, 10, 20))), at(103, settled(41, 1)), at(104, LEFT)]
    assert figures(account({"a": ahead, "b": again}, Job(20))) == (20, 0, 10)


def test_a_clock_set_back_by_an_hour_between_two_runs_changes_nothing_of_the_account() -> None:
    started = {"event": "started"}
    first = [at(7200, started), at(7201, claimed(10, 0, 1)), at(7202, trained((0, 0, 20)))]
    first += [at(7203, settled(10, 0, 1))]  # killed
    second = [at(3600, started), at(3610, {**resumed(3610, 0, e0=[0]), "revision": 20})]
    second += [at(3611, claimed(21, 1)), at(3612, trained((0, 10, 20))), at(3613, settled(21, 1))]
    third = [at(0, started), at(5, {**resumed(5, 0, e0=[0, 1]), "revision": 30}), at(6, LEFT)]
    assert figures(account({"a": [*first, *second, at(3614, LEFT)]}, Job(20))) == (20, 0, 10)
    assert figures(account({"a": [*first, *second[:3], at(3614, LEFT)]}, Job(20))) == (10, 10, 0)
    assert figures(account({"a": [*first, *second, *third]}, Job(20))) == (20, 0, 10)


def test_what_was_trained_unclaimed_after_a_resume_that_its_peer_knows_of_counts() -> None:
    unclaimed = {"event": "borrowed", "epoch": 0, "chunks": [1]}
    behind = [at(42, claimed(42, 0)), at(43, unclaimed), at(44, trained((0, 0, 20)))]
    behind += [at(45, claimed(43, 1)), at(46, settled(42, 0)), at(46, settled(43, 1)), at(47, LEFT)]
    resumer = [at(100, {**resumed(100, 0), "revision": 40}), at(101, LEFT)]
    assert figures(account({"a": resumer, "b": behind}, Job(20))) == (20, 0, 0)


def test_revisions_order_nothing_when_the_store_has_forgotten_some() -> None:
    """It gives the same revisions out again: the clocks say then what was before a resume."""
    before = [at(1, claimed(60, 0, 1)), at(2, trained((0, 0, 20))), at(3, settled(60, 0, 1))]
    forgot = {"event": "store-forgot", "written": 60, "found": 20}
    resumer = [at(9, {**resumed(9, 0, e0=[0]), "revision": 40}), at(10, LEFT)]
    assert figures(account({"a": [*before, at(4, forgot), at(5, LEFT)], "b": resumer}, Job(20))) == (
        10,
        10,
        0,
    )
    seen = account({"a": [*before, at(5, LEFT)], "b": resumer}, Job(20), store_forgot=True)
    assert figures(seen) == (10, 10, 0)


def test_an_epoch_that_the_checkpoint_holds_whole_stays_done() -> None:
    before = [at(1, trained((0, 0, 40), (1, 0, 10))), at(2, done(0, 0, 1, 2, 3)), at(2, done(1, 0))]
    found = account({"a": [*before, LEFT], "b": [at(9, resumed(9, 1)), LEFT]}, Job(50, FORTY))
    assert figures(found) == (40, 10, 0)


def test_a_name_that_is_used_again_is_another_life() -> None:
    started = {"event": "started", "t": 0.0}
    first = [started, at(1, JOINED), at(1, trained((0, 0, 10)))]
    second = [started, at(5, JOINED), at(6, trained((0, 0, 10))), at(7, done(0, 0)), at(8, LEFT)]
    found = account({"a": [*first, *second]}, Job(10))
    assert (found.peers_joined, found.peers_killed) == (2, 1)
    assert figures(found) == (10, 0, 10)


def test_a_torn_line_of_a_killed_process_does_not_hide_what_the_next_one_of_its_name_wrote(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.jsonl"
    JsonLinesLog(tmp_path, "a", FakeClock()).emit(Event.STARTED)
    with path.open("a") as file:
        file.write('{"t":1.0,"event":"tra')
    JsonLinesLog(tmp_path, "a", FakeClock()).emit(Event.LEFT)
    assert [event["event"] for event in read_events(path)] == ["started", "left"]
