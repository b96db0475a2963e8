"""Defects that the simulator has found, each with the shortest schedule that shows it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.observe.checker.verdict import InvariantStatus
from gossip_caffe.sim.faults.faults import Fault, Kind
from gossip_caffe.sim.faults.foreign_write import ForeignWriter
from gossip_caffe.sim.simulation import SimulationResult, planned, simulate
from tests.bare_job import bare_job
from tests.fake_clock import FakeClock


def with_faults(*faults: Fault, peers: int = 4, seed: int = 1, for_s: float = 12.0) -> SimulationResult:
    return simulate(replace(planned((), peers=peers, seed=seed, for_s=for_s), schedule=faults))


def errors_of(found: SimulationResult) -> set[str]:
    return {str(line["error"]) for log in found.logs.values() for line in log if line["event"] == "left"} - {
        ""
    }


@pytest.mark.timeout(60)
def test_a_peer_that_cannot_register_says_so_and_does_not_stumble_over_children_that_it_never_had() -> None:
    found = with_faults(Fault(2.0, Kind.ETCD_AWAY, lasts_s=11.0), Fault(2.5, Kind.JOIN))
    assert not found.failures
    assert errors_of(found) <= {"StoreUnavailable", "Conflict", "LeaseLost"} != set()
    assert found.verdict.standing("loud-errors") is InvariantStatus.HOLDS


@pytest.mark.timeout(60)
def test_a_peer_that_loses_its_lease_while_it_leaves_still_leaves() -> None:
    found = with_faults(Fault(2.0, Kind.ETCD_AWAY, lasts_s=11.0), Fault(2.5, Kind.LEAVE, 1))
    assert not found.failures
    assert found.verdict.counters.leases_lost < 20


@pytest.mark.timeout(60)
def test_a_peer_that_reached_nobody_until_the_job_was_finished_does_not_take_it_back() -> None:
    found = with_faults(Fault(6.0, Kind.JOIN), Fault(6.01, Kind.HALF_OPEN, 4, lasts_s=60.0))
    assert not found.failures
    assert found.verdict.counters.resumes == 0
    late = found.logs["p004"]
    assert any(line["event"] == "finished" for line in late)
    assert not any(line["event"] == "claimed" for line in late)


@pytest.mark.timeout(60)
def test_peers_whose_timers_are_coarse_do_not_wait_for_records_that_never_come() -> None:
    """What is left of a chunk is no whole batch: it is trained as a short one when there is nothing more to claim."""
    coarse = replace(planned((), peers=3, seed=1, for_s=61.0), grain_s=1.0, step_s=1.0)
    found = simulate(coarse)
    assert not found.failures
    assert found.lasted_s < 70.0


@pytest.mark.timeout(120)
def test_a_stranger_who_replaces_all_announcements_before_all_peers_die_ends_no_job() -> None:
    """Nobody has what is announced then, and each disk has whole copies that are not."""
    kinds = ForeignWriter(MemoryEtcd(FakeClock()), bare_job()).kinds
    replaced = next(
        target for target in range(200) if random.Random(target).choice(kinds) == "announcements-replaced"
    )
    found = with_faults(
        Fault(6.0, Kind.FOREIGN_WRITE, replaced), Fault(6.01, Kind.BLACKOUT, lasts_s=1.8), for_s=16.0
    )
    assert not found.failures
    wrote = [line.get("wrote") for line in found.observed if line.get("fault") == "foreign-write"]
    assert wrote == ["announcements-replaced"]
    assert any(line["event"] == "resumed" for log in found.logs.values() for line in log)
