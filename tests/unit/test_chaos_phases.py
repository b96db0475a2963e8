"""What a peer is at follows from what it and its partners have written down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gossip_caffe.chaos.phases import APPLYING_S, JOINING, Copies, LoggedState, Phase, PhaseWatch, phase_of

NOW = 100.0
NONE = Copies()


def said(*events: tuple[str, dict[str, Any]]) -> LoggedState:
    made = LoggedState()
    for event, fields in events:
        made.take({"t": NOW, "event": event, **fields})
    return made


STARTED: tuple[str, dict[str, Any]] = ("started", {})
SYNCING = ("state", {"new": "syncing"})
TRAINING = ("state", {"new": "training"})
OFFERED = ("offered", {"exchange": "x1", "partner": "p1"})


def exchanged(side: str, outcome: str = "applied") -> tuple[str, dict[str, Any]]:
    return ("exchanged", {"exchange": "x1", "side": side, "outcome": outcome})


def at(own: LoggedState, copies: Copies = NONE, now: float = NOW, **others: LoggedState) -> Phase:
    return phase_of("p0", {"p0": own, **others}, copies, now)


def test_a_joiner_passes_through_every_phase_of_joining_in_order() -> None:
    seen = said(TRAINING, ("member", {"member": "p0"}))
    met = [
        at(said()),
        at(said(STARTED), p1=said(TRAINING)),
        at(said(STARTED), p1=seen),
        at(said(STARTED), Copies(coming=True), p1=seen),
        at(said(STARTED), Copies(whole=True), p1=seen),
        at(said(STARTED, ("loaded", {}), SYNCING), p1=seen),
        at(said(STARTED, ("loaded", {}), SYNCING, ("joined", {})), p1=seen),
    ]
    assert tuple(met) == JOINING


def test_a_copy_that_is_read_already_is_not_being_loaded() -> None:
    assert at(said(STARTED, ("loaded", {})), Copies(whole=True)) is Phase.BUILDING


def test_an_exchange_is_offered_until_it_is_over_and_then_it_is_applied_for_a_moment() -> None:
    assert at(said(TRAINING)) is Phase.TRAINING
    assert at(said(TRAINING, OFFERED)) is Phase.OFFERING
    over = said(TRAINING, OFFERED, exchanged("offered"))
    assert at(over) is Phase.APPLYING
    assert at(over, now=NOW + 2 * APPLYING_S) is Phase.TRAINING
    assert at(said(TRAINING, OFFERED, exchanged("offered", "refused"))) is Phase.TRAINING


def test_a_peer_that_was_offered_an_exchange_answers_until_it_logs_the_end() -> None:
    offerer = said(TRAINING, ("offered", {"exchange": "x1", "partner": "p0"}))
    assert at(said(TRAINING), p1=offerer) is Phase.ANSWERING
    assert at(said(TRAINING, exchanged("answered")), p1=offerer) is Phase.APPLYING
    assert at(said(TRAINING, exchanged("answered", "refused")), p1=offerer) is Phase.TRAINING


def test_a_peer_without_a_lease_or_that_leaves_is_in_no_other_phase() -> None:
    assert at(said(TRAINING, OFFERED, ("state", {"new": "orphaned"}))) is Phase.AWAY
    assert at(said(TRAINING, OFFERED, ("state", {"new": "draining"}))) is Phase.LEAVING


def test_a_joiner_that_lost_its_lease_is_away_and_then_passes_through_the_phases_again() -> None:
    lost: tuple[tuple[str, dict[str, Any]], ...] = (
        STARTED,
        ("loaded", {}),
        SYNCING,
        ("joined", {}),
        ("state", {"new": "joining"}),
    )
    assert at(said(*lost)) is Phase.AWAY
    assert at(said(*lost, SYNCING)) is Phase.SYNCING
    assert at(said(*lost, SYNCING, ("joined", {}))) is Phase.WARMING_UP


def test_logs_are_read_as_they_grow_and_a_torn_line_waits_for_its_end(tmp_path: Path) -> None:
    watch = PhaseWatch(tmp_path, {"p0": tmp_path / "checkpoints"})
    watch.look(["p0"])
    assert watch.phase("p0", NOW) is Phase.STARTING
    log = tmp_path / "p0.jsonl"
    line = json.dumps({"t": NOW, "event": "started"}) + "\n"
    log.write_text(line + line[:5])
    watch.look(["p0"])
    assert watch.phase("p0", NOW) is Phase.REGISTERING
    (tmp_path / "checkpoints" / ".unfinished-0-p1").mkdir(parents=True)
    assert watch.phase("p0", NOW) is Phase.PULLING
    state = json.dumps({"t": NOW, "event": "state", "new": "training"}) + "\n"
    log.write_text(line + "torn\n" + state)
    watch.look(["p0"])
    assert watch.phase("p0", NOW) is Phase.TRAINING
    watch.look([])
    assert watch.logged == {}
