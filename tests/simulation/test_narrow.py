"""A link that is narrowed: exchanges time out and come late, files take long, and nothing is broken by that."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from gossip_caffe.sim.faults.faults import Fault, Kind, kinds_of
from gossip_caffe.sim.simulation import SimulationResult, planned, simulate


def with_links(*faults: Fault, seed: int = 1) -> SimulationResult:
    return simulate(replace(planned((), peers=4, seed=seed, for_s=16.0), schedule=faults))


def outcomes(found: SimulationResult) -> Counter[str]:
    lines = [line for log in found.logs.values() for line in log if line["event"] == "exchanged"]
    return Counter(str(line["outcome"]) for line in lines if line["side"] == "offered")


@pytest.mark.timeout(120)
def test_a_narrow_link_makes_exchanges_time_out_and_breaks_nothing() -> None:
    wide = with_links()
    assert not wide.failures
    assert not outcomes(wide)["failed"]
    narrow = with_links(*(Fault(2.0, Kind.NARROW, target, 10.0, 0.9) for target in range(2)))
    assert not narrow.failures
    assert narrow.verdict.counters.records_lost == 0
    assert narrow.accuracy > 0.85
    assert outcomes(narrow)["failed"] >= 4
    noted = [line for line in narrow.observed if line["event"] == "fault"]
    assert [(line["fault"], line["peer"]) for line in noted] == [("narrow", "p000"), ("narrow", "p001")]


@pytest.mark.timeout(120)
def test_when_all_links_are_a_little_narrow_exchanges_take_longer_and_succeed() -> None:
    found = with_links(*(Fault(1.0, Kind.NARROW, target, 60.0, 0.1) for target in range(4)))
    assert not found.failures
    counts = outcomes(found)
    assert counts["applied"] > 10 * counts["failed"]


@pytest.mark.timeout(120)
def test_one_who_joins_while_the_links_of_all_are_narrow_waits_for_the_checkpoint_and_trains() -> None:
    narrowed = (Fault(4.0, Kind.NARROW, target, 30.0, 0.6) for target in range(4))
    found = with_links(*narrowed, Fault(5.0, Kind.JOIN))
    assert not found.failures
    took = [line["t"] for line in found.logs["p004"] if line["event"] in {"started", "joined"}]
    assert took[1] - took[0] > 2.0


@pytest.mark.timeout(300)
def test_narrow_links_alone_break_nothing_and_a_seed_has_one_history() -> None:
    digests = set()
    for seed in (1, 2, 1):
        found = simulate(planned(kinds_of("narrow"), peers=8, seed=seed, for_s=20.0, every=0.05))
        assert found.failures == ()
        assert len(found.plan.schedule) >= 4
        digests.add(found.digest)
    assert len(digests) == 2
    assert Kind.NARROW in kinds_of("all")
