"""The stranger of chaos runs: it needs nothing but an address and the job's name, and gets nowhere."""

from __future__ import annotations

import random

import numpy as np
import pytest

from gossip_caffe.chaos.poison import POISONS, Stranger
from gossip_caffe.gossip.averaging.bound import WARM_AFTER
from gossip_caffe.gossip.codecs.message import Refusal
from gossip_caffe.gossip.transport.memory_transport import MemoryNetwork
from gossip_caffe.sim.faults.poisoning import Poison
from tests.exchange_net import ExchangingPeer, Weights

SIZE = 500


def target(network: MemoryNetwork, half_limit: float) -> Weights:
    weights = Weights(1, SIZE)
    peer = ExchangingPeer(
        "p0", weights, network, job="digits", codec="float16", seed=1, half_limit=half_limit
    )
    for _ in range(WARM_AFTER):
        peer.local.bound.note_applied()
    network.peers["p0"] = peer.answering
    return weights


@pytest.mark.parametrize("poison", [poison for poison in POISONS if poison not in {Poison.STALE, Poison.BIT}])
async def test_every_poison_is_refused(poison: Poison) -> None:
    network = MemoryNetwork()
    weights = target(network, 0.25)
    before = weights.values.copy()
    stranger = Stranger(network, "digits", random.Random(2))
    refused = await stranger.offer("p0", poison)
    assert refused is (Refusal.NON_FINITE if poison is Poison.NAN else Refusal.TOO_FAR)
    assert np.array_equal(weights.values, before)


async def test_without_a_bound_it_ruins_a_peer_with_one_offer() -> None:
    network = MemoryNetwork()
    weights = target(network, 0.0)
    assert await Stranger(network, "digits", random.Random(2)).offer("p0", Poison.HUGE) is Refusal.NONE
    assert np.abs(weights.values).max() > 1e29


async def test_where_nobody_answers_it_goes_on() -> None:
    stranger = Stranger(MemoryNetwork(), "digits", random.Random(2))
    assert await stranger.offer("p0", Poison.HUGE) is None
    assert stranger.answers == {"": 1}
