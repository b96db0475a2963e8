"""A store that forgets its last writes: everybody finds out, nothing is lost, and nobody waits for what never was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from gossip_caffe.observe.verdict import Standing
from gossip_caffe.sim.faults import ALL, Fault, Kind, kinds_of
from gossip_caffe.sim.simulation import Simulated, planned, simulate


def with_faults(*faults: Fault, seed: int = 1) -> Simulated:
    return simulate(replace(planned((), peers=4, seed=seed, for_s=16.0), schedule=faults))


def of(found: Simulated, event: str) -> list[Mapping[str, Any]]:
    return [line for log in found.logs.values() for line in log if line["event"] == event]


@pytest.mark.timeout(120)
def test_peers_whose_writes_were_forgotten_register_again_and_train_the_rest() -> None:
    found = with_faults(Fault(6.0, Kind.ETCD_BACK, lasts_s=1.0))
    assert found.failures == ()
    assert found.verdict.counters.records_lost == 0
    lost = of(found, "lease-lost")
    assert {line["peer"] for line in lost} == {"p000", "p001", "p002", "p003"}
    for line in lost:
        written, known = line["forgotten"]
        assert 0 < known < written
        assert f"revision {written}" in str(line["reason"])
    again = [line for line in of(found, "state") if line["old"] == "orphaned"]
    assert len(again) == len(lost)
    assert found.lasted_s < 2 * with_faults().lasted_s


@pytest.mark.timeout(120)
def test_who_owned_what_is_not_judged_by_the_word_of_a_store_that_forgot() -> None:
    found = with_faults(Fault(6.0, Kind.ETCD_BACK, lasts_s=1.0))
    assert found.verdict.standing("single-owner") is Standing.UNSEEN
    single_owner = next(entry for entry in found.verdict.findings if entry.invariant == "single-owner")
    assert "forgot" in single_owner.reason
    assert single_owner.history
    assert with_faults().verdict.standing("single-owner") is Standing.HOLDS


@pytest.mark.timeout(120)
def test_a_peer_that_joined_in_what_was_forgotten_joins_again() -> None:
    found = with_faults(Fault(5.0, Kind.ETCD_BACK, lasts_s=2.0), Fault(5.2, Kind.JOIN))
    assert found.failures == ()
    assert any(line["peer"] == "p004" for line in of(found, "claimed"))


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
