"""The supervisor does one thing at a time: who scales while the cluster starts, or goes down, is not in its way."""

from __future__ import annotations

import asyncio
import errno
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.fleet.fleet_from_options import fleet_of
from gossip_caffe.cluster.state.folder import ClusterState
from gossip_caffe.cluster.state.options import ClusterOptions
from gossip_caffe.cluster.supervision import supervisor as module
from gossip_caffe.cluster.supervision.commands import answer
from gossip_caffe.cluster.supervision.supervisor import Supervisor
from gossip_caffe.errors import Conflict
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.jobs import create_job
from gossip_caffe.system.processes import no_room
from tests.bare_job import bare_job


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
        self.patience_s = deadline_s
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
    assert made._store is not None
    await create_job(made._store, bare_job())
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


async def test_peers_have_the_grace_of_the_cluster_for_leaving(
    made: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made, "_options", replace(made._options, grace_s=45.0))
    assert made._store is not None
    await create_job(made._store, bare_job())
    await made.scale(2)
    await made.scale(1)
    assert cast("Any", made.fleet).patience_s == 47.0
    assert (await answer(made, {"do": "down"}))["leave_s"] == 47.0
    fleet = fleet_of(made._options, "unix:/etcd", lambda _: None, listens_for_others=True)
    assert tuple(fleet._more) == ("--metrics-listen", "none", "--grace", "45.0")


async def test_a_machine_without_room_for_another_peer_says_so_and_the_cluster_goes_on(
    made: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(made, "_say", said.append)
    monkeypatch.setattr(made, "_options", replace(made._options, restart=True))

    def full() -> None:
        raise no_room("peer p1", OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))

    monkeypatch.setattr(made.fleet, "start", full)
    monkeypatch.setattr(made.fleet, "cause", lambda peer: "", raising=False)
    made._peer_ended(cast("Any", SimpleNamespace(name="p0", how="killed", code=-9, stopping=False)))
    assert "no peer replaces it" in said[-1]
    assert "Cannot allocate memory" in said[-1]
