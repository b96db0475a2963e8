"""The supervisor does one thing at a time: who scales while the cluster starts, or goes down, is not in its way."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster import supervisor as module
from gossip_caffe.cluster.state import ClusterState
from gossip_caffe.cluster.supervisor import ClusterOptions, Supervisor
from gossip_caffe.errors import Conflict
from gossip_caffe.membership.memory_etcd import MemoryEtcd
from gossip_caffe.membership.memory_store import MemoryStore


class Fleet:
    """Peers that start at once, and leave at once."""

    def __init__(self) -> None:
        self.peers: dict[str, Any] = {}

    @property
    def running(self) -> list[Any]:
        return list(self.peers.values())

    def name(self, number: int) -> str:
        return f"p{number}"

    def start(self) -> Any:
        name = self.name(len(self.peers))
        self.peers[name] = SimpleNamespace(name=name)
        return self.peers[name]

    async def stop(self, peers: list[Any], deadline_s: float) -> None:
        for peer in peers:
            del self.peers[peer.name]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    monkeypatch.setenv("GOSSIP_CAFFE_STATE", str(tmp_path))
    made = Supervisor(ClusterOptions(ClusterState("local"), peers=2, job="job"), lambda _: None)
    made.fleet = cast("Any", Fleet())
    made._store = cast("Any", MemoryStore(MemoryEtcd(SystemClock())))
    return made


async def test_who_scales_while_the_first_peers_wait_for_old_leases_finds_them(
    made: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = asyncio.Event()

    async def old_leases_end(*_: object) -> None:
        await ended.wait()

    monkeypatch.setattr(module, "old_leases_end", old_leases_end)
    starting = asyncio.create_task(made._start_peers())
    await asyncio.sleep(0)
    scaling = asyncio.create_task(made.scale(3))
    await asyncio.sleep(0)
    ended.set()
    await starting
    assert (await scaling)["started"] == ["p2"]
    assert list(made.fleet.peers) == ["p0", "p1", "p2"]


async def test_nobody_is_started_while_it_goes_down(made: Supervisor) -> None:
    made.go_down("Ctrl-C")
    with pytest.raises(Conflict, match="is going down"):
        await made.scale(2)
    assert not made.fleet.running
