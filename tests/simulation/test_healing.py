"""A peer whose weights are wrong goes back to the consensus, names who was with it, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gossip_caffe.gossip.codecs.message import Refusal
from gossip_caffe.observe.log.runs import one_by_one
from gossip_caffe.sim import simulation
from gossip_caffe.sim.cluster import Running, SimulatedCluster
from gossip_caffe.sim.injecting import Injector
from gossip_caffe.sim.simulation import Plan, SimulationResult, simulate

PEERS = 4
FOR_S = 60.0
STRUCK_AT_S = 30.0


def struck(
    patch: pytest.MonkeyPatch,
    *what: Callable[[Running], None],
    peers: int = PEERS,
    every_s: float = 5.0,
    seed: int = 5,
) -> SimulationResult:
    """A run in which these happen to one peer, one after the other."""

    class Struck(Injector):
        def __init__(self, cluster: SimulatedCluster, schedule: Any) -> None:
            super().__init__(cluster, schedule)
            self.cluster = cluster

        async def run(self) -> None:
            await self.cluster.clock.sleep(STRUCK_AT_S)
            for do in what:
                if (running := self.cluster.running.get("p001")) is not None:
                    do(running)
                await self.cluster.clock.sleep(every_s)

    patch.setattr(simulation, "Injector", Struck)
    return simulate(Plan(peers=peers, seed=seed, for_s=FOR_S))


def live_weights(running: Running) -> np.ndarray:
    engine: Any = running.peer._solver._engine  # type: ignore[union-attr]
    weights: np.ndarray = engine._engine._flat
    return weights


def nan(running: Running) -> None:
    live_weights(running)[3] = np.nan


def far_away(running: Running) -> None:
    live_weights(running)[:] *= 40.0


def events(found: SimulationResult, kind: str, peer: str = "p001") -> list[dict[str, Any]]:
    return [line for line in found.logs[peer] if line["event"] == kind]


def assert_healed(found: SimulationResult, times: int = 1) -> dict[str, Any]:
    assert not found.failures
    assert found.verdict.counters.records_lost == 0
    healed = events(found, "healed")
    assert len(healed) == times
    assert not any(
        line["error"] for lines in found.logs.values() for line in lines if line["event"] == "left"
    )
    assert len(events(found, "started")) == 1
    died = events(found, "solver-died")
    assert len(died) == times
    lost = died[0]["sequences_lost"]
    trained = one_by_one(events(found, "trained"))
    again = [line["sequence"] for line in trained if line["t"] > died[0]["t"]]
    assert set(range(*lost)) <= set(again)  # what was not settled is trained again
    assert found.accuracy > 0.9
    return healed[0]


def test_a_loss_that_is_not_finite_shortly_after_a_foreign_half_ends_no_peer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    healed = assert_healed(struck(monkeypatch, nan))
    assert healed["partner"] in {"p000", "p002", "p003"}
    assert healed["exchange"]
    assert "loss nan" in healed["cause"]
    assert "diverged" not in healed["cause"]
    assert healed["source"].startswith(("checkpoint", "the mean"))


def test_a_peer_that_is_too_far_from_three_others_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    found = struck(monkeypatch, far_away)
    healed = assert_healed(found)
    assert "too far" in healed["cause"]
    refused = [line for line in events(found, "exchanged") if line.get("refusal") == Refusal.TOO_FAR.name]
    assert len({line["partner"] for line in refused}) >= 3


def test_weights_that_are_not_finite_are_found_though_no_loss_shows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gossip_caffe.solver.engines.numpy_engine import NumpyEngine  # noqa: PLC0415

    step = NumpyEngine.step

    def blind(self: NumpyEngine, *arguments: Any) -> float:
        loss = step(self, *arguments)
        return loss if np.isfinite(loss) else 0.5

    monkeypatch.setattr(NumpyEngine, "step", blind)
    healed = assert_healed(struck(monkeypatch, nan))
    assert "NaN or Inf" in healed["cause"]


def test_twice_within_ten_minutes_it_ends_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    found = struck(monkeypatch, nan, nan)
    left = [line for line in events(found, "left") if line["error"]]
    assert [line["error"] for line in left] == ["ModelError"]
    assert "second time within ten minutes" in left[0]["reason"]
    assert "exchange" in left[0]["reason"]
    assert not found.failures  # whoever supervises it has started it again


def test_of_two_peers_one_that_is_ill_takes_the_others_word(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_healed(struck(monkeypatch, nan, peers=2))


@pytest.mark.parametrize("seed", range(6, 12))
def test_wherever_it_is_struck_nothing_is_lost(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_healed(struck(monkeypatch, nan if seed % 2 else far_away, seed=seed))


def test_a_lone_peer_whose_loss_is_not_finite_has_diverged_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    found = struck(monkeypatch, nan, peers=1)
    left = [
        line for lines in found.logs.values() for line in lines if line["event"] == "left" and line["error"]
    ]
    assert not [line for lines in found.logs.values() for line in lines if line["event"] == "healed"]
    for line in left:
        assert "training diverged" in line["reason"]
