"""A peer is killed: what it owned is claimed by others once its lease has ended, and not a while later."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gossip_caffe.sim.faults.faults import Fault, Kind
from gossip_caffe.sim.simulation import planned, simulate

PEERS = 4
KILLS = 24
AT_THE_LATEST_S = 0.5
"""So long after the lease has ended (virtual seconds: those of no machine). Whoever does not look for what a dead peer
left finds it with the next listing: up to 1 s after."""


@pytest.mark.timeout(120)
def test_what_a_dead_peer_owned_is_claimed_within_half_a_second_of_the_end_of_its_lease() -> None:
    took = []
    for number in range(KILLS):
        plan = planned((), peers=PEERS, seed=number, for_s=20.0)
        kill = Fault(4.0 + (0.37 * number) % 6.0, Kind.KILL, target=number % PEERS)
        found = simulate(replace(plan, schedule=(kill,)))
        assert found.failures == ()
        assert found.verdict.counters.kills == 1
        if (reclaimed_s := found.verdict.counters.reclaim.p99_s) is not None:
            took.append(reclaimed_s - plan.settings.lease_ttl_s)
    print(f"the last chunk is claimed {min(took):.2f} to {max(took):.2f} s after the lease has ended")
    assert len(took) > KILLS / 2, "hardly any of them owned anything"
    assert max(took) <= AT_THE_LATEST_S
