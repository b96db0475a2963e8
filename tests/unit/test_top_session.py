"""The wishes of a view's keys, carried out: a peer is asked to leave, a process of a local cluster is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gossip_caffe.cli.top import session as module
from gossip_caffe.cli.top.keyboard import keys_of
from gossip_caffe.cli.top.session import NOT_LOCAL, Session
from gossip_caffe.cli.top.watching import watching
from gossip_caffe.cluster.local_processes import PeerOfCluster, find_process, kill_process
from gossip_caffe.cluster.state.folder import ClusterState
from gossip_caffe.errors import NotFound, StoreUnavailable
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.etcd.store import Put
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.leave_requests import wait_for_leave_request
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.observe.views.screen import Wish
from gossip_caffe.system.processes import started_at
from tests.bare_job import bare_job
from tests.fake_clock import FakeClock

KEYS = JobKeys("mnist")


def stands(etcd: MemoryEtcd, peer: str, pid: int = 1) -> int:
    lease = etcd.grant(60.0).id
    record = PeerRecord(peer, f"{lease:x}", "h:1", "box", pid, "training")
    etcd.transact([], [Put(KEYS.peer(peer), record.to_json(), lease)])
    return lease


@pytest.fixture
def etcd() -> MemoryEtcd:
    server = MemoryEtcd(FakeClock())
    server.transact([], [Put(KEYS.spec, replace(bare_job(), name="mnist").to_json())])
    for peer in ("p0", "p1"):
        stands(server, peer)
    return server


async def of(etcd: MemoryEtcd, cluster: ClusterState | None = None) -> Session:
    return Session(await watching(MemoryStore(etcd), ""), cluster)


async def press(session: Session, *keys: str) -> str:
    """Press keys; returns the note."""
    for key in keys:
        assert await session.press(key)
    return session.state.note


async def test_a_drained_peer_learns_who_asked(etcd: MemoryEtcd) -> None:
    session = await of(etcd)
    await press(session, "down", "d")
    assert KEYS.leave("p1") not in etcd.keys
    assert await press(session, "y") == "p1 is asked to leave"
    by = await wait_for_leave_request(MemoryStore(etcd), KEYS, "p1")
    assert by.startswith("top of ")
    assert " on " in by
    assert KEYS.leave("p0") not in etcd.keys


async def test_a_peer_that_has_gone_meanwhile_is_not_asked(etcd: MemoryEtcd) -> None:
    session = await of(etcd)
    await press(session, "d")
    etcd.revoke(etcd.keys[KEYS.peer("p0")].lease)
    assert await press(session, "y") == "no peer 'p0' is alive"


async def test_an_etcd_that_is_away_ends_no_view(etcd: MemoryEtcd, monkeypatch: pytest.MonkeyPatch) -> None:
    session = await of(etcd)

    async def away(*_: object) -> None:
        raise StoreUnavailable("etcd does not answer", remedy="start it")

    monkeypatch.setattr(MemoryStore, "list", away)
    monkeypatch.setattr(MemoryStore, "get", away)
    await session.look()
    assert session.watching.watched.away == "etcd does not answer"
    assert session.peers == ("p0", "p1")
    assert "etcd does not answer" in await press(session, "d", "y")
    monkeypatch.undo()
    await session.look()
    assert session.watching.watched.away == ""


async def test_a_record_that_is_not_believed_is_a_line_said_once(etcd: MemoryEtcd) -> None:
    etcd.transact([], [Put(KEYS.peer("p7"), b"{}")])
    session = await of(etcd)
    await session.look()
    await session.look()
    said = [entry.words for entry in session.watching.watched.happenings]
    assert len(said) == 1
    assert "peers/p7' is ignored" in said[0]


async def test_only_peers_of_a_local_cluster_are_killed(etcd: MemoryEtcd) -> None:
    session = await of(etcd)
    assert await press(session, "k") == NOT_LOCAL
    assert session.state.question is None


async def test_a_peer_of_a_local_cluster_is_killed_after_a_confirmation(
    etcd: MemoryEtcd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        etcd.revoke(etcd.keys[KEYS.peer("p0")].lease)
        stands(etcd, "p0", process.pid)
        rows = [
            {"peer": "p0", "pid": process.pid, "running": True},
            {"peer": "p1", "pid": 0, "running": True},
        ]
        monkeypatch.setattr(module, "ask", lambda *_: {"cluster": "local", "job": "mnist", "peers": rows})
        session = await of(etcd, ClusterState("local", tmp_path))
        assert "p1 is no running process of cluster 'local' on this machine; drain it" in await press(
            session, "down", "k"
        )
        await press(session, "home", "k")
        assert session.state.question is not None
        assert session.state.question.wish is Wish.KILL
        assert f"kill p0 (pid {process.pid})?" in session.state.question.words
        await press(session, "n")
        assert process.poll() is None
        assert await press(session, "k", "y") == f"SIGKILL sent to p0 (pid {process.pid})"
        assert process.wait(60) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()


def test_a_number_that_another_process_has_taken_is_not_killed() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        started = started_at(process.pid)
        assert started is not None
        with pytest.raises(NotFound, match="has ended already"):
            kill_process(PeerOfCluster("p0", process.pid, started - 1))
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    with pytest.raises(NotFound, match="has ended already"):
        kill_process(PeerOfCluster("p0", process.pid, started))


def test_only_the_very_peer_that_is_shown_is_a_process_of_the_cluster() -> None:
    pid = os.getpid()
    rows = [{"peer": "p0", "pid": pid, "running": True}, {"peer": "p1", "pid": pid, "running": False}]
    status: dict[str, Any] = {"cluster": "local", "job": "mnist", "peers": rows}
    assert find_process(status, "mnist", "p0", pid).pid == pid
    for job, peer, shown in (
        ("other", "p0", pid),
        ("mnist", "p0", pid + 1),
        ("mnist", "p1", pid),
        ("mnist", "p2", 0),
    ):
        with pytest.raises(NotFound, match="is no running process of cluster 'local'"):
            find_process(status, job, peer, shown)


def test_bytes_of_a_terminal_become_keys() -> None:
    assert keys_of(b"\x1b[A\x1bOB\x1b[Hq\r") == ["up", "down", "home", "q", "enter"]
    assert keys_of(b"\x1b") == ["escape"]
    assert keys_of(b"\x03\x04") == ["ctrl+c", "q"]
    assert keys_of(b"\x1b[200~paste") == []
    assert keys_of(b"\x00\xff") == ["\ufffd"]
    assert keys_of(b"") == []


async def test_the_note_makes_way_for_the_keys_again(
    etcd: MemoryEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await of(etcd)
    await press(session, "k")
    await session.look()
    assert session.state.note == NOT_LOCAL
    monkeypatch.setattr(module, "NOTE_S", -1.0)
    await session.look()
    assert session.state.note == ""
    await asyncio.sleep(0)
