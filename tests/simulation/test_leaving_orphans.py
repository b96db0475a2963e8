"""A peer that is asked to leave while it has no lease: nobody takes it for one that trains again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gossip_caffe.sim.faults.faults import Fault, Kind
from gossip_caffe.sim.simulation import planned, simulate

CUT_AT_S = 4.0
LEASE_S = 3.0


@pytest.mark.timeout(200)
def test_an_orphan_that_leaves_never_registers_as_one_that_trains() -> None:
    orphans = 0
    for step in range(12):
        leaves_s = CUT_AT_S + LEASE_S + 0.1 + 0.15 * step
        schedule = (
            Fault(
                3.0, Kind.SLOW, target=1, lasts_s=30.0, strength=1.0
            ),  # it has much to finish when it leaves
            Fault(CUT_AT_S, Kind.STORE_CUT, target=1, lasts_s=leaves_s - CUT_AT_S + 0.1 * (step % 4)),
            Fault(leaves_s, Kind.LEAVE, target=1),
        )
        found = simulate(replace(planned((), peers=3, seed=1, for_s=30.0), schedule=schedule))
        assert found.failures == ()
        assert found.verdict.counters.records_lost == 0
        states = [line for line in found.logs["p001"] if line["event"] == "state"]
        left = [line["t"] for line in states if line["new"] == "draining"]
        orphans += any(line["old"] == "orphaned" and line["new"] == "draining" for line in states)
        again = [
            line
            for log in found.logs.values()
            for line in log
            if line["event"] == "member" and line["member"] == "p001" and line["new"] == "training"
        ]
        assert left
        assert not [line for line in again if line["t"] > left[0] + 0.05]
    assert orphans >= 4
