"""A second writer in the store: nothing is lost, nothing beside the peers' folders is touched, and it is said."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from gossip_caffe.observe.checker.verdict import InvariantStatus
from gossip_caffe.sim.faults.faults import ALL, Fault, Kind, kinds_of
from gossip_caffe.sim.faults.foreign_write import ForeignWriter
from gossip_caffe.sim.simulation import SimulationResult, planned, simulate

KINDS = kinds_of("foreign-write,kill,join,leave,freeze")


def events(found: SimulationResult) -> Counter[str]:
    return Counter(str(line["event"]) for log in found.logs.values() for line in log)


def only(what: str, monkeypatch: pytest.MonkeyPatch, *at_s: float, peers: int = 5) -> SimulationResult:
    """A run in which the stranger does one thing, at some moments."""
    write = ForeignWriter.write

    def chosen(self: ForeignWriter, rng: Any) -> str:
        self._what = {what: self._what[what]}
        return write(self, rng)

    monkeypatch.setattr(ForeignWriter, "write", chosen)
    schedule = tuple(Fault(at, Kind.FOREIGN_WRITE, target=int(100 * at)) for at in at_s)
    return simulate(replace(planned((), peers=peers, seed=3, for_s=16.0), schedule=schedule))


def test_it_is_one_of_all_faults() -> None:
    assert Kind.FOREIGN_WRITE in ALL


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(1, 7))
def test_a_job_comes_to_its_end_whatever_a_stranger_writes_meanwhile(seed: int) -> None:
    found = simulate(planned(KINDS, peers=6, seed=seed, for_s=20.0, every=0.3))
    assert found.failures == ()
    assert found.verdict.counters.records_lost == 0
    assert found.verdict.standing("known-writer") is InvariantStatus.HOLDS
    assert found.accuracy > 0.85
    if any(line.get("fault") == "foreign-write" for line in found.observed):
        assert events(found)["ignored"] + events(found)["put-right"] + events(found)["forgot"] >= 0
    (disk,) = [line for line in found.observed if line["event"] == "disk"]
    assert disk["touched"] == []


WHAT = {
    "announcements-removed": "put-right",
    "announcements-replaced": "ignored",
    "hostile-ids": "ignored",
    "finished": "ignored",
    "done": "put-right",
    "claims": "put-right",
    "bogus-members": "ignored",
    "own-record": "put-right",
    "folded": "put-right",
    "holders": "",
    "fences": "",
    "garbage": "ignored",
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("what", WHAT)
def test_each_thing_that_a_stranger_writes_costs_nothing_and_is_said(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = only(what, monkeypatch, 3.1, 4.3, 5.7, 7.2, 8.9)
    assert len([line for line in found.observed if line.get("wrote") == what]) >= 4
    assert found.failures == ()
    assert found.verdict.counters.records_lost == 0
    assert found.accuracy > 0.9
    if WHAT[what]:
        assert events(found)[WHAT[what]] > 0
    assert (
        Counter(line["new"] for log in found.logs.values() for line in log if line["event"] == "state")[
            "failed"
        ]
        == 0
    )
