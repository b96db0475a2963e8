"""A store that forgets its last writes: everybody finds out, nothing is lost, and nobody waits for what never was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from gossip_caffe.observe.checker.verdict import InvariantStatus
from gossip_caffe.sim.faults.faults import ALL, Fault, Kind, kinds_of
from gossip_caffe.sim.simulation import SimulationResult, planned, simulate


def with_faults(*faults: Fault, seed: int = 1) -> SimulationResult:
    return simulate(replace(planned((), peers=4, seed=seed, for_s=16.0), schedule=faults))


def of(found: SimulationResult, event: str) -> list[Mapping[str, Any]]:
    return [line for log in found.logs.values() for line in log if line["event"] == event]


@pytest.mark.timeout(120)
def test_peers_whose_writes_were_forgotten_register_again_and_train_the_rest() -> None:
    found = with_faults(Fault(6.0, Kind.ETCD_BACK, lasts_s=1.0))
    assert found.failures == ()
    assert found.verdict.counters.records_lost == 0
    lost, told = of(found, "lease-lost"), of(found, "store-forgot")
    for lines in (lost, told):
        assert {line["peer"] for line in lines} == {"p000", "p001", "p002", "p003"}
    for line in told:
        assert 0 < line["found"] < line["written"]
    assert all("forgot" in line["reason"] for line in lost)
    again = [line for line in of(found, "state") if line["old"] == "orphaned"]
    assert len(again) == len(lost)
    assert found.lasted_s < 2 * with_faults().lasted_s


@pytest.mark.timeout(120)
def test_who_owned_what_is_not_judged_by_the_word_of_a_store_that_forgot() -> None:
    found = with_faults(Fault(6.0, Kind.ETCD_BACK, lasts_s=1.0))
    assert found.verdict.standing("single-owner") is InvariantStatus.UNSEEN
    single_owner = next(entry for entry in found.verdict.findings if entry.invariant == "single-owner")
    assert "lost writes" in single_owner.reason
    assert single_owner.history
    assert with_faults().verdict.standing("single-owner") is InvariantStatus.HOLDS


@pytest.mark.timeout(120)
def test_a_peer_that_joined_in_what_was_forgotten_joins_again() -> None:
    found = with_faults(Fault(5.0, Kind.ETCD_BACK, lasts_s=2.0), Fault(5.2, Kind.JOIN))
    assert found.failures == ()
    (went_back,) = [line["t"] for line in found.observed if line.get("fault") == "etcd-back"]
    claimed = [line["t"] for line in found.logs["p004"] if line["event"] == "claimed"]
    assert min(claimed) < went_back < max(claimed)


@pytest.mark.timeout(300)
def test_what_is_forgotten_when_there_is_nothing_left_to_claim_is_found_out_too() -> None:
    """No peer has anything to write then, and what it settled last hangs on its own lease again."""
    lasts_s = with_faults().lasted_s
    went_back = 0
    for tenth in range(1, 31, 2):
        found = with_faults(Fault(round(lasts_s - 0.1 * tenth, 3), Kind.ETCD_BACK, lasts_s=1.0))
        assert found.failures == ()
        assert found.verdict.counters.records_lost == 0
        went_back += bool(of(found, "store-forgot"))
    assert went_back >= 5


@pytest.mark.timeout(120)
@pytest.mark.parametrize("at_s", [4.6, 5.4, 6.0])
def test_that_a_job_went_back_to_a_checkpoint_may_be_forgotten_too(at_s: float) -> None:
    """The account says again that all is done which died with the peers: those who train from the checkpoint end."""
    dead = Fault(at_s, Kind.BLACKOUT, lasts_s=1.0)
    found = with_faults(dead, Fault(at_s + 0.5, Kind.ETCD_BACK, lasts_s=5.5))
    assert found.failures == ()
    assert found.verdict.counters.records_lost == 0
    (went_back,) = [line["t"] for line in found.observed if line.get("fault") == "etcd-back"]
    resumed = sorted(of(found, "resumed"), key=lambda line: float(line["t"]))
    assert resumed[0]["t"] < went_back < resumed[-1]["t"]
    assert resumed[0]["freed_samples"]
    ends = {str(line["error"]) for line in of(found, "left")} - {""}
    assert "EnvironmentProblem" in ends
    assert ends <= {"EnvironmentProblem", "Conflict"}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(1, 5))
def test_it_may_happen_again_and_again_while_peers_come_and_go(seed: int) -> None:
    kinds = kinds_of("etcd-back,kill,join,leave,freeze,solver,etcd-away")
    found = simulate(planned(kinds, peers=6, seed=seed, for_s=16.0, every=0.2))
    assert found.failures == ()
    assert found.verdict.counters.records_lost == 0
    assert found.accuracy > 0.85
    assert len(found.verdict.counters.faults) >= 4


def test_it_is_no_fault_that_is_meant_by_all() -> None:
    assert Kind.ETCD_BACK not in ALL == kinds_of("all")
    assert kinds_of("all,etcd-back,kill") == (*ALL, Kind.ETCD_BACK)
    assert kinds_of("none") == ()
