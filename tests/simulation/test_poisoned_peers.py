"""Peers that are alive and wrong: what they send costs exchanges, and no model."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gossip_caffe.gossip.codecs.codec import CODECS
from gossip_caffe.gossip.codecs.message import Message
from gossip_caffe.sim.faults.faults import ALL, Fault, Kind, kinds_of
from gossip_caffe.sim.faults.poisoning import Poison, Poisoned, Poisoners, poisoned
from gossip_caffe.sim.simulation import Plan, SimulationResult, simulate

PEERS = 4
FOR_S = 60.0
POINTS = 1.0


def simulated(*faults: Fault, seed: int = 3) -> SimulationResult:
    return simulate(Plan(peers=PEERS, seed=seed, for_s=FOR_S, schedule=faults))


def outcomes(found: SimulationResult) -> Iterator[dict[str, object]]:
    for lines in found.logs.values():
        yield from (line for line in lines if line["event"] == "exchanged")


@pytest.fixture(scope="module")
def clean() -> SimulationResult:
    return simulated()


def test_in_peace_no_honest_half_is_refused(clean: SimulationResult) -> None:
    assert not clean.failures
    assert not [line for line in outcomes(clean) if line.get("refusal") == "TOO_FAR"]


@pytest.mark.parametrize("poison", Poison)
def test_a_quarter_of_all_that_is_sent_may_be_poison(
    poison: Poison, clean: SimulationResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(self: Poisoners, rng: random.Random, note: Any) -> None:
        once(self, rng, note)
        self.all_others = Poisoned(0.25, poison)

    once = Poisoners.__init__
    monkeypatch.setattr(Poisoners, "__init__", begin)
    found = simulated()
    assert not found.failures
    assert found.accuracy >= clean.accuracy - POINTS / 100
    spoilt = Counter(line["poison"] for line in found.observed if line["event"] == "spoilt")
    assert spoilt[poison.value] > 20
    lives = [line for lines in found.logs.values() for line in lines if line["event"] == "left"]
    assert len(lives) == PEERS
    assert not any(line["error"] for line in lives)


def test_poison_is_one_of_all_faults_and_is_taken_back_at_its_end() -> None:
    assert Kind.POISON in ALL
    assert kinds_of("poison") == (Kind.POISON,)
    found = simulated(Fault(10.0, Kind.POISON, 1, lasts_s=10.0, strength=1.0))
    assert not found.failures
    began = next(line for line in found.observed if line["event"] == "fault")
    spoilt = [line for line in found.observed if line["event"] == "spoilt"]
    assert spoilt
    assert {line["peer"] for line in spoilt} == {began["peer"]}
    assert all(began["t"] <= line["t"] <= began["t"] + 10.5 for line in spoilt)


@pytest.mark.parametrize("poison", Poison)
def test_each_poison_is_what_it_says(poison: Poison) -> None:
    weights = np.random.default_rng(1).normal(0, 0.1, 100).astype(np.float32)
    kept, oldest = weights.copy(), np.full_like(weights, 7.0)
    spoilt = poisoned(poison, weights, random.Random(2), oldest)
    assert np.array_equal(weights, kept)
    changed = int((spoilt.view(np.uint32) != weights.view(np.uint32)).sum())
    assert changed == (1 if poison in {Poison.BIT, Poison.NAN} else weights.size)
    assert np.isfinite(spoilt).all() == (poison is not Poison.NAN)
    assert np.array_equal(spoilt, oldest) == (poison is Poison.STALE)


@pytest.mark.parametrize("codec", CODECS)
def test_a_message_is_spoilt_whatever_its_codec(codec: str) -> None:
    weights = np.random.default_rng(1).normal(0, 0.1, 100).astype(np.float32)
    payload = CODECS[codec].encode(weights, (100,), np.random.default_rng(1))
    message = Message("x", "a", "job", "net", codec=codec, values=100, payload=payload)
    noted: list[tuple[str, str, Poison]] = []
    poisoners = Poisoners(random.Random(1), lambda *what: noted.append(what))
    assert poisoners.spoilt("a", message) is message
    poisoners.wrong["a"] = Poisoned(1.0, Poison.ZEROS)
    assert not any(poisoners.spoilt("a", message).payload)
    assert poisoners.spoilt("b", message) is message
    assert noted == [("x", "a", Poison.ZEROS)]


def test_a_net_that_is_cut_in_two_and_healed_takes_none_of_its_halves_for_poison() -> None:
    refused = applied = 0
    for seed in (3, 4, 5):
        found = simulated(Fault(12.0, Kind.PARTITION, 1, lasts_s=0.4 * FOR_S, strength=1.0), seed=seed)
        assert not found.failures
        refused += sum("ratio" in line for line in outcomes(found) if line.get("refusal") == "TOO_FAR")
        applied += sum(line["outcome"] == "applied" for line in outcomes(found))
    assert applied > 100
    assert refused <= 0.005 * applied
