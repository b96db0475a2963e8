"""A store that takes no writes and renews leases: nobody stops, nobody ends, nothing is lost, joiners wait."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gossip_caffe.observe.log.runs import one_by_one
from gossip_caffe.sim.faults.faults import Fault, Kind
from gossip_caffe.sim.simulation import SimulationResult, planned, simulate

FULL, OVERLOADED = 0.1, 0.9


def with_faults(*faults: Fault, peers: int = 3, seed: int = 1, for_s: float = 40.0) -> SimulationResult:
    return simulate(replace(planned((), peers=peers, seed=seed, for_s=for_s), schedule=faults))


def trained_between(found: SimulationResult, peer: str, first_s: float, last_s: float) -> int:
    log = found.logs[peer]
    began = float(log[0]["m"])
    return sum(
        line["event"] == "trained" and first_s <= line["m"] - began < last_s for line in one_by_one(log)
    )


@pytest.mark.timeout(120)
@pytest.mark.parametrize("strength", [FULL, OVERLOADED])
def test_everybody_trains_on_for_a_minute_without_writes_and_comes_back(strength: float) -> None:
    """At the pace of the ten seconds before, until what is planned for a peer is used up, shortly before the end."""
    found = with_faults(Fault(12.0, Kind.ETCD_FULL, lasts_s=60.0, strength=strength), for_s=90.0)
    assert found.failures == ()
    assert found.verdict.counters.records_lost == 0
    assert found.verdict.counters.leases_lost == 0
    for peer in found.logs:
        before = trained_between(found, peer, 2.0, 12.0)
        for start in (20.0, 35.0, 50.0):
            assert trained_between(found, peer, start, start + 10.0) >= before / 2, (peer, start)
    unclaimed = [line for log in found.logs.values() for line in log if line["event"] == "borrowed"]
    assert unclaimed


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "meanwhile",
    [
        Fault(9.0, Kind.JOIN),
        Fault(9.0, Kind.KILL, 1, lasts_s=3.0, strength=0.1),
        Fault(9.0, Kind.LEAVE, 1),
        Fault(9.0, Kind.FREEZE, 1, lasts_s=7.0),
        Fault(9.0, Kind.SOLVER, 1),
        Fault(9.0, Kind.ETCD_AWAY, lasts_s=4.0),
        Fault(9.0, Kind.BLACKOUT, lasts_s=3.0),
        Fault(9.0, Kind.STORE_CUT, 1, lasts_s=9.0),
    ],
    ids=lambda fault: str(fault.kind),
)
def test_whatever_else_happens_while_it_is_full_ends_well(meanwhile: Fault) -> None:
    for seed in range(4):
        found = with_faults(Fault(6.0, Kind.ETCD_FULL, lasts_s=15.0, strength=FULL), meanwhile, seed=seed)
        assert found.failures == (), seed
        assert found.verdict.counters.records_lost == 0


@pytest.mark.timeout(60)
def test_who_is_started_while_it_is_full_waits_and_trains_afterwards() -> None:
    found = with_faults(Fault(6.0, Kind.ETCD_FULL, lasts_s=15.0, strength=FULL), Fault(8.0, Kind.JOIN))
    log = found.logs["p003"]
    assert [line["event"] for line in log].count("started") == 1
    joined = next(line for line in log if line["event"] == "joined")
    assert joined["m"] - log[0]["m"] >= 12.0
    assert any(line["event"] == "done" for line in one_by_one(log))
