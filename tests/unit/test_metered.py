"""The bytes of exchanges are counted on both sides, and nothing else about them changes."""

from __future__ import annotations

from collections import Counter

import pytest

from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.codecs.codec import CODECS
from gossip_caffe.gossip.protocol import offering
from gossip_caffe.gossip.protocol.outcome import OutcomeKind
from gossip_caffe.gossip.protocol.transport import Answerer, Transport
from gossip_caffe.gossip.transport.memory_transport import MemoryNetwork
from gossip_caffe.gossip.transport.metered import MeteredAnswerer, MeteredTransport
from tests.exchange_net import SIZE, ExchangingPeer, Weights, spoilt_answer

Bytes = Counter[tuple[str, str]]


class Pair:
    """Two peers on one network, each with its counts."""

    def __init__(self, codec: str) -> None:
        self.network = MemoryNetwork()
        self.counts: dict[str, Bytes] = {"a": Counter(), "b": Counter()}
        transport: Transport = MeteredTransport(self.network, self.counter("a"))
        self.a = ExchangingPeer("a", Weights(1), transport, codec=codec)
        self.b = ExchangingPeer("b", Weights(2), self.network, codec=codec)
        answerer: Answerer = MeteredAnswerer(self.b.answering, self.counter("b"))
        self.network.peers["b"] = answerer

    def counter(self, name: str):  # type: ignore[no-untyped-def]
        def count(direction: str, codec: str, size_bytes: int) -> None:
            self.counts[name][direction, codec] += size_bytes

        return count


@pytest.mark.parametrize("swaps", [False, True], ids=["whole", "swap"])
@pytest.mark.parametrize("codec", CODECS)
async def test_both_sides_count_what_the_codec_makes_of_their_weights(
    codec: str, swaps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if swaps:
        monkeypatch.setattr(offering, "SWAP_FROM_VALUES", 1)
    pair = Pair(codec)
    outcome = await pair.a.offering.offer_to("b", "b")
    assert outcome.kind is OutcomeKind.APPLIED
    size = CODECS[codec].payload_bytes(SIZE)
    expected = {("sent", codec): size, ("received", codec): size}
    assert dict(pair.counts["a"]) == expected
    assert dict(pair.counts["b"]) == expected


async def test_an_offer_that_is_refused_brought_nothing_back() -> None:
    pair = Pair("float32")
    pair.b.local.fingerprint = "another"
    outcome = await pair.a.offering.offer_to("b", "b")
    assert outcome.kind is OutcomeKind.REFUSED
    assert pair.counts["a"]["received", "float32"] == pair.counts["b"]["sent", "float32"] == 0


async def test_a_failure_stays_the_failure_that_it_was() -> None:
    pair = Pair("float32")
    pair.network.before_answer = spoilt_answer(ExchangeFailed("cut"))
    outcome = await pair.a.offering.offer_to("b", "b")
    assert (outcome.kind, outcome.reason) == (OutcomeKind.FAILED, "cut")
    assert not pair.counts["a"]
