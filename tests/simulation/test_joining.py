"""The store goes away, or a peer is stopped for longer than its lease, before it has weights: it joins all the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from gossip_caffe.sim.faults.faults import Fault, Kind
from gossip_caffe.sim.simulation import SimulationResult, planned, simulate

AWAY_S = 5.0
"""The lease lasts 3 s."""
REGISTERED_S = 0.05
"""By then a peer that starts has its first answers from the store."""
BACK_S = 4.0
"""Longer than the leases of those who died: they can have their names again."""


def simulated(peers: int, *faults: Fault, for_s: float = 16.0) -> SimulationResult:
    return simulate(replace(planned((), peers=peers, seed=1, for_s=for_s), schedule=faults))


def of(found: SimulationResult, peer: str, event: str) -> list[Mapping[str, Any]]:
    return [line for line in found.logs[peer] if line["event"] == event]


def came_back(found: SimulationResult, peer: str) -> bool:
    """Whether it lost its lease before it trained; it must have begun from weights, and never have ended."""
    assert found.failures == ()
    assert found.verdict.counters.records_lost == 0
    states = [str(line["new"]) for line in of(found, peer, "state")]
    assert "failed" not in states, of(found, peer, "left")
    lost = [line["t"] for line in of(found, peer, "lease-lost")]
    trained = [line["t"] for line in of(found, peer, "state") if line["new"] == "training"]
    assert trained
    return bool(lost) and lost[0] < trained[0]


KINDS = (Kind.FREEZE, Kind.STORE_CUT, Kind.ETCD_AWAY)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_joiner_that_loses_its_lease_joins_again(kind: Kind) -> None:
    early = 0
    for hundredth in range(12):
        hit = Fault(5.0 + REGISTERED_S + 0.01 * hundredth, kind, target=4, lasts_s=AWAY_S)
        found = simulated(4, Fault(5.0, Kind.JOIN), hit, for_s=30.0)
        early += came_back(found, "p004")
        assert len(of(found, "p004", "started")) == 1
        assert of(found, "p004", "claimed")
    assert early >= 3


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_so_does_one_that_founds_the_job(kind: Kind) -> None:
    early = 0
    for hundredth in range(12):
        found = simulated(1, Fault(REGISTERED_S + 0.01 * hundredth, kind, lasts_s=AWAY_S))
        early += came_back(found, "p000")
        assert len(of(found, "p000", "founded")) <= 1 + len(of(found, "p000", "lease-lost"))
    assert early >= 3


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_so_does_one_that_takes_the_job_back_to_a_checkpoint(kind: Kind) -> None:
    early = 0
    for tenth in range(20):
        dead = Fault(4.6, Kind.BLACKOUT, lasts_s=BACK_S)
        hit = Fault(4.6 + BACK_S + REGISTERED_S + 0.1 * tenth, kind, lasts_s=AWAY_S)
        found = simulated(2, dead, hit)
        again = of(found, "p000", "started")[1]["t"]
        assert found.failures == ()
        assert found.verdict.counters.records_lost == 0
        early += any(line["new"] == "joining" and line["t"] > again for line in of(found, "p000", "state"))
        assert not any(line["error"] for line in of(found, "p000", "left"))
    assert early >= 3


@pytest.mark.timeout(120)
def test_a_pause_in_the_midst_of_the_first_registration_is_no_other_peer_of_that_name() -> None:
    for thousandth in range(0, 60, 4):
        found = simulated(
            4, Fault(5.0, Kind.JOIN), Fault(5.0 + 0.001 * thousandth, Kind.FREEZE, target=4, lasts_s=AWAY_S)
        )
        came_back(found, "p004")
        assert len(of(found, "p004", "started")) == 1


@pytest.mark.timeout(120)
def test_a_store_that_is_away_from_the_first_word_on_ends_a_peer_which_says_so() -> None:
    found = simulated(4, Fault(5.0, Kind.ETCD_AWAY, lasts_s=9.0), Fault(5.1, Kind.JOIN))
    assert found.failures == ()
    first = of(found, "p004", "left")[0]
    assert first["error"] == "StoreUnavailable"
