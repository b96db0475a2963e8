"""A snapshot that a person asks for while a cluster trains: from the peers, or else from their living weights."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from gossip_caffe.checkpoint.duty import due
from gossip_caffe.cli.options.local_cluster import effects_of
from gossip_caffe.cluster.supervision.asked_snapshot import PATIENCE_S, AskedSnapshot
from gossip_caffe.cluster.supervision.living_weights import LivingWeights
from gossip_caffe.errors import EnvironmentProblem, GossipCaffeError
from gossip_caffe.system.signals import Action, Effect, on_signal
from tests.fake_clock import FakeClock


class Cluster:
    """A supervisor and its snapshot files; ``living``: what is fetched, or the error."""

    def __init__(self, living: object = None) -> None:
        self.step_s = 0.0
        self.requests = self.fetched = 0
        self.asked = False
        self.saved: list[object] = []
        self._living = living

    def ask_for_snapshot(self) -> None:
        self.requests += 1

    async def living_weights(self) -> LivingWeights | None:
        self.fetched += 1
        if isinstance(self._living, GossipCaffeError):
            raise self._living
        return cast("LivingWeights | None", self._living)

    def ask(self) -> None:
        self.asked = True

    def forget(self) -> None:
        self.asked = False

    def save(self, living: LivingWeights) -> Path:
        self.asked = False
        self.saved.append(living)
        return Path("net_iter_7.caffemodel")


def asked(cluster: Cluster) -> tuple[AskedSnapshot, FakeClock, list[str]]:
    clock, said = FakeClock(), []  # type: ignore[var-annotated]
    return AskedSnapshot(cluster, cast("Any", cluster), clock, said.append), clock, said


async def later(snapshot: AskedSnapshot, clock: FakeClock, seconds: float) -> None:
    await clock.advance(seconds)
    snapshot.look()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_several_requests_are_one_and_the_peers_have_time_for_it() -> None:
    cluster = Cluster("weights")
    snapshot, clock, said = asked(cluster)
    snapshot.ask("SIGHUP")
    snapshot.ask("SIGHUP")
    await later(snapshot, clock, PATIENCE_S - 1)
    cluster.asked = False  # a peer has made it
    await later(snapshot, clock, 60)
    assert (cluster.requests, cluster.fetched) == (1, 0)
    assert said == ["SIGHUP: a snapshot is written, and the training goes on"]


async def test_the_living_weights_stand_in_for_a_snapshot_that_does_not_come() -> None:
    cluster = Cluster("weights")
    snapshot, clock, said = asked(cluster)
    snapshot.ask("SIGHUP")
    await later(snapshot, clock, PATIENCE_S + 1)
    assert cluster.saved == ["weights"]
    assert said[-1] == "snapshot net_iter_7.caffemodel (without a .solverstate)"


async def test_a_step_that_takes_long_is_waited_for() -> None:
    cluster = Cluster("weights")
    cluster.step_s = 25.0
    snapshot, clock, _ = asked(cluster)
    snapshot.ask("SIGHUP")
    await later(snapshot, clock, 74)
    assert cluster.fetched == 0
    await later(snapshot, clock, 2)
    assert cluster.fetched == 1


@pytest.mark.parametrize(
    ("living", "waits", "says"),
    [
        (None, True, "SIGHUP: a snapshot is written, and the training goes on"),
        (
            EnvironmentProblem("the disk is full", remedy="free some"),
            False,
            "no snapshot is written: the disk is full; free some",
        ),
    ],
)
async def test_before_a_peer_has_trained_the_request_waits_and_an_error_ends_it(
    living: object, waits: bool, says: str
) -> None:
    cluster = Cluster(living)
    snapshot, clock, said = asked(cluster)
    snapshot.ask("SIGHUP")
    await later(snapshot, clock, PATIENCE_S + 1)
    assert (cluster.asked, said[-1]) == (waits, says)
    assert cluster.requests == (2 if waits else 1)  # peers that start later have not heard of the first


@pytest.mark.parametrize("leaving", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_effects_of_a_signal(number: signal.Signals, leaving: bool) -> None:
    assert on_signal(number, leaving=leaving, effect=Effect.NONE).action is Action.NOTHING
    expected = Action.NOTHING if leaving else Action.SNAPSHOT
    assert on_signal(number, leaving=leaving, effect=Effect.SNAPSHOT).action is expected


@pytest.fixture
def hang_up() -> Iterator[None]:
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("ignored", [False, True])
def test_the_options_of_train_are_caffes(hang_up: None, ignored: bool) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    assert effects_of("stop", "none") == {signal.SIGINT: Effect.STOP, signal.SIGHUP: Effect.NONE}
    by_default = {signal.SIGINT: Effect.SNAPSHOT} | ({} if ignored else {signal.SIGHUP: Effect.SNAPSHOT})
    assert effects_of("snapshot", None) == by_default


def test_a_checkpoint_that_is_asked_for_is_due() -> None:
    assert (
        due(100, 50, 1000, finished=False, alone_unsettled=False, asked=True).reason
        == "a snapshot is asked for"
    )
    assert not due(100, 50, 1000, finished=False, alone_unsettled=False).now
