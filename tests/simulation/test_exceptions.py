"""Each call of each adapter raises what nobody foresaw: the peer goes on or ends with a word, and nothing is lost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest

from gossip_caffe.membership.members import MembersView
from gossip_caffe.sim.faults.faults import Fault, Kind
from gossip_caffe.sim.faults.tripwires import POINTS, Trip, drawn
from gossip_caffe.sim.simulation import SimulationResult, planned, simulate

FOR_S = 8.0
ON_PURPOSE = (RuntimeError, OSError, asyncio.InvalidStateError, ValueError)


def trips(point: str, *, starts: bool) -> Iterator[tuple[Fault, Trip]]:
    """A fault for each error, before and after the work; ``starts``: of a peer that starts afterwards."""
    strength = (POINTS.index(point) + 0.5) / len(POINTS)
    found: set[tuple[type[Exception], bool]] = set()
    for number in itertools.count(int(starts), 2):
        trip = drawn(strength, number)
        if (trip.error, trip.late) not in found:
            found.add((trip.error, trip.late))
            yield Fault(1.5, Kind.EXCEPTION, target=number, strength=strength), trip
        if len(found) == 2 * len(ON_PURPOSE):
            return


def simulated(fault: Fault, *, starts: bool) -> SimulationResult:
    schedule = (fault, Fault(1.6, Kind.JOIN)) if starts else (fault,)
    return simulate(replace(planned((), peers=3, seed=1, for_s=FOR_S), schedule=schedule))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("starts", [False, True], ids=["of a peer that trains", "of a joiner"])
@pytest.mark.parametrize("point", POINTS)
def test_a_call_that_raises_what_nobody_foresaw_loses_nothing_and_lets_nobody_wait(
    point: str, starts: bool
) -> None:
    """Every second of the eight ways in turn, so that each error is met before and after the work of some call."""
    place = POINTS.index(point)
    for fault, trip in itertools.islice(trips(point, starts=starts), place % 2, None, 4):
        found = simulated(fault, starts=starts)
        assert found.failures == (), (trip, found.failures)
        assert found.verdict.counters.records_lost == 0
        raised = [line for line in found.observed if line.get("fault") == Kind.EXCEPTION.value]
        ended = [
            line for log in found.logs.values() for line in log if line["event"] == "left" and line["error"]
        ]
        for line in ended:  # who ended says by which error, and it is the one that was dealt
            assert (line["peer"], line["error"]) in {(seen["peer"], seen["error"]) for seen in raised}


def test_most_calls_are_met() -> None:
    """A fault that never strikes proves nothing."""
    met = 0
    for point in POINTS:
        fault, _ = next(
            trips(point, starts=point.startswith(("store.grant", "disk.load", "disk.adopt", "solver")))
        )
        found = simulated(fault, starts=bool(fault.target % 2))
        met += any(line.get("where") == point for line in found.observed)
    assert met >= 0.7 * len(POINTS)


def test_a_view_whose_watch_ends_unseen_lets_a_joiner_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug that was real, planted again: the simulator finds a peer that never ends."""
    follow = MembersView.follow

    async def swallowed(self: MembersView) -> None:
        try:
            await follow(self)
        except ON_PURPOSE:
            await asyncio.Event().wait()

    fault = next(fault for fault, trip in trips("store.watch", starts=True) if not trip.late)
    assert simulated(fault, starts=True).failures == ()
    monkeypatch.setattr(MembersView, "follow", swallowed)
    assert any("had not ended" in failure for failure in simulated(fault, starts=True).failures)
