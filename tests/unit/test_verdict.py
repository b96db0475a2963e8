"""The verdict on a history: a whole one holds, and every mutation of it breaks the invariant that it should."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gossip_caffe.cli.main import cli
from gossip_caffe.errors import NotFound, UsageError
from gossip_caffe.observe.checker.verdict import CHECKS, InvariantStatus, Verdict, verdict, verdict_of

Log = list[dict[str, Any]]
NAMES = tuple(check.__name__.replace("_", "-") for check in CHECKS)


def log_of(peer: str, *events: tuple[float, str, dict[str, Any]]) -> Log:
    return [
        {"t": 1000.0 + at, "m": at, "peer": peer, "event": event, **fields} for at, event, fields in events
    ]


def answered(exchange: str, partner: str) -> dict[str, Any]:
    return {
        "exchange": exchange,
        "partner": partner,
        "side": "answered",
        "outcome": "applied",
        "distance": 0.01,
        "half_sum": -0.5,
        "half_norm": 2.0,
        "ratio": 0.1,
        "limit": 0.25,
    }


def offered(exchange: str, partner: str, batches: int) -> dict[str, Any]:
    return {**answered(exchange, partner), "side": "offered", "half_sum": 0.5, "batches": batches}


def applied_round(name: str, batches: int) -> dict[str, Any]:
    return {
        "round": name, "outcome": "applied", "members": 2, "counts": True, "guest": False, "healed": False,
        "digest": "00000001", "batches": batches, "step_sum": 0.2, "step_norm": 1.0, "distance": 0.01,
        "ratio": 0.1, "limit": 0.25,
    }  # fmt: skip


STARTED = {
    "pid": 1, "schema": 2, "job": "tiny", "budget_samples": 40, "records": 40, "chunk_records": 10,
    "half_limit": 0.25, "warmup": 0.05,
}  # fmt: skip


def whole() -> dict[str, Log]:
    """Two peers train four chunks; a third owned one of them and was killed. The store was away for a while."""
    return {
        "a": log_of(
            "a",
            (0, "started", STARTED),
            (1, "founded", {"checkpoint": "c0", "digest": "d0", "layout": "net"}),
            (1, "state", {"old": "syncing", "new": "training", "reason": "synced"}),
            (2, "claimed", {"epoch": 0, "chunks": [0, 1], "revisions": [10, 10], "lease": 7}),
            (3, "member", {"member": "x", "old": "syncing", "new": "training"}),
            (4, "trained", {"sequence": 0, "parts": [[0, 0, 10]]}),
            (5, "trained", {"sequence": 1, "parts": [[0, 10, 20]]}),
            (6, "corrected", {"half_sum": 0.5, "half_norm": 2.0}),
            (6, "exchanged", offered("a-1", "b", 2)),
            (7, "done", {"epoch": 0, "chunks": [0, 1], "revisions": [10, 10], "via": "a-1"}),
            *(
                (8 + at, "progress", {"iteration": 2 + at, "stalled_share": 0.0, "owns": True})
                for at in range(12)
            ),
            (20, "lease-lost", {"reason": "no renewal got through"}),
            (21, "state", {"old": "training", "new": "orphaned", "reason": "lease lost"}),
            (23, "state", {"old": "orphaned", "new": "training", "reason": "registered again"}),
            (24, "member", {"member": "x", "old": "training", "new": ""}),
            (25, "claimed", {"epoch": 0, "chunks": [3], "revisions": [40], "lease": 9}),
            (26, "trained", {"sequence": 2, "parts": [[0, 30, 40]]}),
            (27, "checkpointed", {"checkpoint": "c1", "digest": "d1", "progress_samples": 30, "batches": 3}),
            (28, "done", {"epoch": 0, "chunks": [3], "revisions": [40], "via": "c1"}),
            (28, "corrected", {"half_sum": 0.2, "half_norm": 1.0}),
            (28, "round", applied_round("r1", 3)),
            (29, "finished", {"checkpoint": "c1"}),
            (30, "left", {"reason": "drained", "error": ""}),
        ),
        "b": log_of(
            "b",
            (1, "started", STARTED),
            (2, "loaded", {"checkpoint": "c0", "digest": "d0"}),
            (2, "joined", {"checkpoint": "c0", "progress_samples": 0, "layout": "net"}),
            (3, "state", {"old": "syncing", "new": "training", "reason": "synced"}),
            (4, "claimed", {"epoch": 0, "chunks": [2], "revisions": [12], "lease": 8}),
            (5, "trained", {"sequence": 0, "parts": [[0, 20, 30]]}),
            (6, "corrected", {"half_sum": -0.5, "half_norm": 2.0}),
            (6, "exchanged", answered("a-1", "a")),
            (7, "corrected", {"half_sum": 0.5, "half_norm": 2.0}),
            (7, "exchanged", offered("b-1", "x", 1)),
            (8, "done", {"epoch": 0, "chunks": [2], "revisions": [12], "via": "b-1"}),
            (28, "corrected", {"half_sum": 0.2, "half_norm": 1.0}),
            (28, "round", applied_round("r1", 1)),
            (29, "finished", {"checkpoint": "c1"}),
            (30, "left", {"reason": "error: the disk is full", "error": "EnvironmentProblem"}),
        ),
        "x": log_of(
            "x",
            (1, "started", STARTED),
            (2, "loaded", {"checkpoint": "c0", "digest": "d0"}),
            (2, "joined", {"checkpoint": "c0", "progress_samples": 0, "layout": "net"}),
            (4, "claimed", {"epoch": 0, "chunks": [3], "revisions": [14], "lease": 5}),
            (7, "corrected", {"half_sum": -0.5, "half_norm": 2.0}),
            (7, "exchanged", answered("b-1", "b")),
        ),
    }


SEEN = [
    {"t": 1010.0, "event": "fault", "fault": "kill", "peer": "x"},
    {"t": 1040.0, "event": "aftermath", "processes": [], "shared_memory": [], "leases": []},
]


def find(logs: dict[str, Log], peer: str, event: str, nth: int = 0) -> dict[str, Any]:
    return [line for line in logs[peer] if line["event"] == event][nth]


def drop(logs: dict[str, Log], peer: str, event: str, nth: int = 0) -> None:
    logs[peer].remove(find(logs, peer, event, nth))


def judged(logs: dict[str, Log], seen: list[dict[str, Any]] | None = None) -> Verdict:
    return verdict(logs, seen=SEEN if seen is None else seen)


def test_a_whole_history_holds_in_every_invariant() -> None:
    found = judged(whole())
    assert [(entry.invariant, entry.standing) for entry in found.findings] == [
        (name, InvariantStatus.HOLDS) for name in NAMES
    ]
    counted = found.counters
    assert (counted.kills, counted.kills_survived, counted.records_lost, counted.records_twice) == (
        1,
        1,
        0,
        0,
    )
    assert counted.exchanges == {"applied": 2}
    assert (counted.detection.p50_s, counted.reclaim.p99_s) == (14.0, 15.0)


def falls_back(logs: dict[str, Log]) -> None:
    """Under its second lease a claims at an older revision than under its first."""
    find(logs, "a", "claimed", 1).update(revisions=[9])
    find(logs, "a", "done", 1).update(revisions=[9])


def says_so(logs: dict[str, Log]) -> None:
    two_owners(logs)
    assert judged(logs).standing("single-owner") is InvariantStatus.BROKEN
    place = logs["a"].index(find(logs, "a", "lease-lost"))
    logs["a"][place + 1 : place + 1] = log_of("a", (21, "store-forgot", {"written": 30, "found": 12}))


@pytest.mark.parametrize(("forgets", "lines"), [(falls_back, 2), (says_so, 1)])
def test_of_a_store_that_forgot_nobody_can_say_who_owned_what(
    forgets: Callable[[dict[str, Log]], None], lines: int
) -> None:
    logs = whole()
    forgets(logs)
    found = judged(logs)
    assert found.standing("single-owner") is InvariantStatus.UNSEEN
    (finding,) = (entry for entry in found.findings if entry.invariant == "single-owner")
    assert "lost writes" in finding.reason
    assert len(finding.history) == lines


def two_owners(logs: dict[str, Log]) -> None:
    find(logs, "b", "claimed").update(chunks=[2, 1], revisions=[12, 11])
    find(logs, "a", "done").update(chunks=[0], revisions=[10])
    find(logs, "a", "claimed", 1)["lease"] = 7


def settled_after_another_claimed(logs: dict[str, Log]) -> None:
    find(logs, "b", "claimed").update(chunks=[1, 2], revisions=[12, 12])


def settled_and_never_owned(logs: dict[str, Log]) -> None:
    find(logs, "b", "done").update(chunks=[2, 3], revisions=[12, 12])


def one_record_untrained(logs: dict[str, Log]) -> None:
    find(logs, "b", "trained")["parts"] = [[0, 20, 29]]


def twice_and_nobody_died(logs: dict[str, Log]) -> None:
    del logs["x"], logs["b"][-1]["error"]
    drop(logs, "a", "lease-lost")
    find(logs, "a", "trained", 2)["parts"] = [[0, 30, 40], [0, 0, 2]]


def done_without_a_carrier(logs: dict[str, Log]) -> None:
    find(logs, "a", "done")["via"] = "a-9"


def done_before_it_was_trained(logs: dict[str, Log]) -> None:
    log = logs["a"]
    log.append(log.pop(log.index(find(logs, "a", "trained", 1))))


def done_via_a_snapshot_that_lacks_it(logs: dict[str, Log]) -> None:
    find(logs, "a", "exchanged")["batches"] = 1


def done_via_what_nobody_applied(logs: dict[str, Log]) -> None:
    for event in ("corrected", "exchanged"):
        drop(logs, "b", event)


def answered_twice(logs: dict[str, Log]) -> None:
    for event in ("corrected", "exchanged"):
        logs["b"].append(dict(find(logs, "b", event)))


def applied_late(logs: dict[str, Log]) -> None:
    half = {"exchange": "a-1", "partner": "a", "half_sum": -0.5, "half_norm": 2.0}
    logs["b"] += log_of("b", (12, "half-applied", half))


def torn_half(logs: dict[str, Log]) -> None:
    find(logs, "b", "corrected").update(half_sum=-0.25, half_norm=1.4)


def halves_do_not_cancel(logs: dict[str, Log]) -> None:
    for event in ("corrected", "exchanged"):
        find(logs, "b", event)["half_sum"] = -0.4


def changed_by_no_half(logs: dict[str, Log]) -> None:
    logs["a"].insert(6, dict(find(logs, "a", "corrected")))


def solver_waits(logs: dict[str, Log]) -> None:
    for line in logs["a"]:
        if line["event"] == "progress":
            line["iteration"] = 2


def without_a_solver(logs: dict[str, Log]) -> None:
    reported = ((10 + at, "progress", {"iteration": 1, "stalled_share": 0.0}) for at in range(65))
    died = (9, "solver-died", {"cause": "killed by SIGKILL", "sequences_lost": [1, 1]})
    logs["b"][-2:-2] = log_of("b", died, *reported)


def began_unloaded(logs: dict[str, Log]) -> None:
    drop(logs, "b", "loaded")


def loaded_something_else(logs: dict[str, Log]) -> None:
    find(logs, "b", "loaded")["digest"] = "flipped"


def another_net(logs: dict[str, Log]) -> None:
    find(logs, "b", "joined")["layout"] = "another"


def exchanged_with_fresh_weights(logs: dict[str, Log]) -> None:
    drop(logs, "b", "joined")


def not_finite(logs: dict[str, Log]) -> None:
    for event in ("corrected", "exchanged"):
        find(logs, "b", event)["half_sum"] = float("nan")


def moved_too_far(logs: dict[str, Log]) -> None:
    find(logs, "b", "exchanged")["ratio"] = 0.26


def moved_too_far_and_says_only_its_distance(logs: dict[str, Log]) -> None:
    line = find(logs, "b", "exchanged")
    del line["ratio"], line["limit"]
    line["distance"] = 1.0


def bound_that_never_narrows(logs: dict[str, Log]) -> None:
    place = logs["b"].index(find(logs, "b", "left"))
    many = ((29, "exchanged", answered(f"z-{number}", "z")) for number in range(16))
    told = (28, "progress", {"iteration": 9, "stalled_share": 0.0, "progress_samples": 30})
    logs["b"] = [line for line in logs["b"] if line["event"] != "corrected"]
    logs["b"][place - 2 : place - 2] = log_of(
        "b", told, *many, (30, "exchanged", {**answered("z-z", "z"), "limit": 0.75})
    )


def moved_further_than_it_says(logs: dict[str, Log]) -> None:
    find(logs, "b", "corrected")["own_norm"] = 1.0


def ended_without_the_store(logs: dict[str, Log]) -> None:
    logs["a"] = [line for line in logs["a"] if line["t"] < 1021]
    logs["a"] += log_of("a", (25, "left", {"reason": "error: lost", "error": "LeaseLost"}))


def ended_without_a_word(logs: dict[str, Log]) -> None:
    drop(logs, "b", "left")


def ended_by_a_defect(logs: dict[str, Log]) -> None:
    find(logs, "b", "left")["error"] = "KeyError"


def forgot_at_once(logs: dict[str, Log]) -> None:
    gone = {"checkpoint": "c9", "by": "", "waited_s": 5.0, "why": "", "kept": ["c1", "c2"]}
    logs["a"].insert(-1, *log_of("a", (30, "forgot", gone)))


def forgot_its_newest(logs: dict[str, Log]) -> None:
    gone = {"checkpoint": "c9", "by": "b", "waited_s": 700.0, "why": "", "kept": ["c9", "c2"]}
    logs["a"].insert(-1, *log_of("a", (30, "forgot", gone)))


def forgot_all(logs: dict[str, Log]) -> None:
    gone = {"checkpoint": "c9", "by": "b", "waited_s": 700.0, "why": "", "kept": ["c2"]}
    logs["a"].insert(-1, *log_of("a", (30, "forgot", gone)))


def believed_an_end(logs: dict[str, Log]) -> None:
    logs["a"].insert(-1, *log_of("a", (30, "finished", {"checkpoint": "nothing"})))


def lost_its_lease_unseen(logs: dict[str, Log]) -> None:
    """Nobody renews the lease any more, and nobody was told."""
    for line in logs["a"]:
        if line["event"] == "progress" and line["m"] > 10:
            line["owns"] = False


def applied_a_round_twice(logs: dict[str, Log]) -> None:
    again = (28, "corrected", {"half_sum": 0.2, "half_norm": 1.0}), (28, "round", applied_round("r1", 3))
    logs["a"][-2:-2] = log_of("a", *again)


def applied_another_mean(logs: dict[str, Log]) -> None:
    find(logs, "b", "round")["digest"] = "00000002"


def gave_up_and_applied(logs: dict[str, Log]) -> None:
    given_up = {"round": "r1", "outcome": "failed", "reason": "x is gone"}
    logs["a"][-4:-4] = log_of("a", (27.5, "round", given_up))


def more_than_its_members(logs: dict[str, Log]) -> None:
    for peer in ("a", "b"):
        find(logs, peer, "round")["members"] = 1


def changed_by_another_step(logs: dict[str, Log]) -> None:
    find(logs, "a", "corrected", 1)["half_norm"] = 1.5


def moved_too_far_by_a_round(logs: dict[str, Log]) -> None:
    find(logs, "a", "round")["ratio"] = 0.5


def done_via_a_round_of_its_own(logs: dict[str, Log]) -> None:
    """Nobody else has applied the round."""
    drop(logs, "b", "round")
    drop(logs, "b", "corrected", 2)
    logs["a"].remove(find(logs, "a", "done", 1))
    logs["a"][-2:-2] = log_of(
        "a", (28.5, "done", {"epoch": 0, "chunks": [3], "revisions": [40], "via": "r1"})
    )


MUTATIONS: list[tuple[str, Callable[[dict[str, Log]], None]]] = [
    ("single-owner", two_owners),
    ("single-owner", settled_after_another_claimed),
    ("single-owner", settled_and_never_owned),
    ("full-coverage", one_record_untrained),
    ("full-coverage", twice_and_nobody_died),
    ("durable-done", done_without_a_carrier),
    ("durable-done", done_before_it_was_trained),
    ("durable-done", done_via_a_snapshot_that_lacks_it),
    ("durable-done", done_via_what_nobody_applied),
    ("whole-half", answered_twice),
    ("whole-half", applied_late),
    ("whole-half", torn_half),
    ("whole-half", halves_do_not_cancel),
    ("whole-half", changed_by_no_half),
    ("whole-round", changed_by_another_step),
    ("whole-round", applied_a_round_twice),
    ("whole-round", applied_another_mean),
    ("whole-round", gave_up_and_applied),
    ("whole-round", more_than_its_members),
    ("durable-done", done_via_a_round_of_its_own),
    ("bounded-half", moved_too_far_by_a_round),
    ("never-wait", solver_waits),
    ("never-wait", without_a_solver),
    ("whole-checkpoint", began_unloaded),
    ("whole-checkpoint", loaded_something_else),
    ("same-model", another_net),
    ("same-model", exchanged_with_fresh_weights),
    ("finite-weights", not_finite),
    ("known-writer", forgot_at_once),
    ("known-writer", forgot_its_newest),
    ("known-writer", forgot_all),
    ("known-writer", believed_an_end),
    ("bounded-half", moved_too_far),
    ("bounded-half", moved_too_far_and_says_only_its_distance),
    ("bounded-half", bound_that_never_narrows),
    ("bounded-half", moved_further_than_it_says),
    ("coordinator-loss", ended_without_the_store),
    ("no-silent-end", lost_its_lease_unseen),
    ("clean-exit", ended_without_a_word),
    ("loud-errors", ended_by_a_defect),
]


@pytest.mark.parametrize(
    ("invariant", "mutate"), MUTATIONS, ids=lambda value: getattr(value, "__name__", value)
)
def test_a_mutated_history_is_caught(invariant: str, mutate: Callable[[dict[str, Log]], None]) -> None:
    logs = copy.deepcopy(whole())
    mutate(logs)
    found = judged(logs)
    broken = {finding.invariant: finding for finding in found.broken}
    assert invariant in broken, found.findings
    assert 1 <= len(broken[invariant].history) <= 6
    assert broken[invariant].reason


def test_the_time_in_which_a_killed_solver_is_replaced_is_no_standing_still() -> None:
    logs = whole()
    without_a_solver(logs)
    back = log_of("b", (49, "solver-back", {"sequence": 1}))
    logs["b"].insert(logs["b"].index(find(logs, "b", "progress", 39)), *back)
    assert judged(logs).standing("never-wait") is InvariantStatus.BROKEN  # it is back, and stands still
    logs["b"] = [line for line in logs["b"] if line["event"] != "progress" or line["m"] <= 55]
    assert judged(logs).standing("never-wait") is InvariantStatus.HOLDS


def test_a_lone_peer_that_holds_for_a_test_does_not_stand_still() -> None:
    logs = whole()
    solver_waits(logs)
    assert judged(logs).standing("never-wait") is InvariantStatus.BROKEN
    for line in logs["a"]:
        if line["event"] == "progress":
            line["testing"] = True
    assert judged(logs).standing("never-wait") is InvariantStatus.HOLDS


def test_every_invariant_has_a_mutation_that_breaks_it() -> None:
    assert {invariant for invariant, _ in MUTATIONS} == set(NAMES)


def test_what_a_run_left_behind_breaks_clean_exit() -> None:
    found = judged(whole(), [SEEN[0], {**SEEN[1], "processes": [4711]}])
    assert [finding.invariant for finding in found.broken] == ["clean-exit"]
    assert "4711" in found.broken[0].reason


def test_what_was_freed_by_going_back_may_be_claimed_and_settled_again() -> None:
    logs = whole()
    logs["a"] += log_of(
        "a",
        (31, "resumed", {"checkpoint": "c0", "folded": 0, "done": {}, "revision": 50}),
        (32, "claimed", {"epoch": 0, "chunks": [2], "revisions": [51], "lease": 10}),
    )
    assert judged(logs).standing("single-owner") is InvariantStatus.HOLDS
    logs["a"][-2]["done"] = {"0": [2]}
    assert judged(logs).standing("single-owner") is InvariantStatus.BROKEN


def test_a_history_that_shows_nothing_is_no_proof() -> None:
    found = verdict({"a": log_of("a", (0, "started", STARTED))})
    assert {finding.standing for finding in found.findings} == {InvariantStatus.UNSEEN}


def test_a_torn_log_is_no_evidence_against_its_peer(tmp_path: Path) -> None:
    logs = whole()
    for event in ("corrected", "exchanged"):
        drop(logs, "x", event)
    write(tmp_path, logs)
    assert {finding.invariant for finding in verdict_of(tmp_path).broken} == {"durable-done", "whole-half"}
    with (tmp_path / "events" / "x.jsonl").open("a") as file:
        file.write('{"t":1007.0,"m":7.0,"peer":"x","ev')
    assert not verdict_of(tmp_path).broken


def write(run_dir: Path, logs: dict[str, Log]) -> None:
    (run_dir / "events").mkdir(exist_ok=True)
    for peer, lines in logs.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (run_dir / "events" / f"{peer}.jsonl").write_text(text)


def test_verify_prints_every_invariant_and_its_exit_code_says_whether_one_is_broken(tmp_path: Path) -> None:
    write(tmp_path, whole())
    (tmp_path / "observer.jsonl").write_text("".join(json.dumps(line) + "\n" for line in SEEN))
    good = CliRunner().invoke(cli, ["verify", str(tmp_path)])
    assert good.exit_code == 0, good.output
    assert all(name in good.output for name in NAMES)
    assert "kills survived: 1" in good.output
    logs = whole()
    answered_twice(logs)
    write(tmp_path, logs)
    bad = CliRunner().invoke(cli, ["verify", str(tmp_path)])
    assert bad.exit_code == 1
    assert "whole-half is broken: exchange a-1 was applied 2 times by b" in bad.output
    record = json.loads(CliRunner().invoke(cli, ["verify", str(tmp_path), "--json"]).output)
    assert record["broken"] == ["whole-half"]
    assert record["counters"]["kills"] == 1


def test_the_jobs_in_one_folder_are_judged_each_by_itself(tmp_path: Path) -> None:
    """A local cluster has one folder for the logs of every job that it trains, one after the other."""
    good, bad = whole(), whole()
    answered_twice(bad)
    for lines in bad.values():
        for line in lines:
            if line["event"] == "started":
                line["job"] = "other"
    write(tmp_path, {peer: good.get(peer, []) + bad.get(peer, []) for peer in {**good, **bad}})
    first = str(STARTED["job"])
    with pytest.raises(UsageError, match=f"several jobs: {first}, other; name one: --job other"):
        verdict_of(tmp_path)
    with pytest.raises(NotFound, match=f"no event logs of job third .* of: {first}, other"):
        verdict_of(tmp_path, job="third")
    asked = ["verify", str(tmp_path), "--job"]
    assert CliRunner().invoke(cli, [*asked, first]).exit_code == 0
    assert CliRunner().invoke(cli, [*asked, "other"]).exit_code == 1
    assert CliRunner().invoke(cli, ["report", str(tmp_path), "--job", first]).exit_code == 0


def test_a_folder_without_logs_and_logs_of_an_older_schema_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        verdict_of(tmp_path)
    logs = whole()
    logs["a"][0]["schema"] = 1
    with pytest.raises(UsageError, match="schema 1"):
        verdict(logs)


def test_a_verdict_tells_the_standing_of_one_invariant() -> None:
    found = judged(whole())
    assert found.standing("single-owner") is InvariantStatus.HOLDS
    assert replace(found, findings=()).broken == ()
