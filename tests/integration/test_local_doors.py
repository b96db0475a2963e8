"""A cluster of this machine has no door to the network, and none for other users of the machine."""

from __future__ import annotations

import asyncio
import json
import os
import random
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.cluster.state.sockets import opened, remove_sockets
from gossip_caffe.errors import ExitCode
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.etcd.store import Put
from gossip_caffe.system.unix_sockets import socket_path
from tests.cluster_run import ClusterRun, cluster_run, wait_for
from tests.tiny_job import write_job

pytestmark = pytest.mark.needs("caffe", "etcd")

NOBODY = 65534
KNOCK = """
import json, os, socket, sys
os.setgroups([]); os.setgid({id}); os.setuid({id})
answers = {{}}
for path in json.load(sys.stdin):
    knock = socket.socket(socket.AF_UNIX)
    knock.settimeout(30)
    try:
        knock.connect(path.replace("@", "\\0") if path.startswith("@") else path)
        answers[path] = "connected"
        answers[path] = "answers" if knock.recv(1) else "hangs up"
    except ConnectionError:
        answers[path] = "hangs up"
    except OSError as error:
        answers[path] = error.strerror
print(json.dumps(answers))
"""
"""Another user at Unix sockets."""


def listening(pids: list[int]) -> list[str]:
    """The TCP and UDP sockets at which processes can be called: lines of /proc."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes.add(str(link.readlink()).removeprefix("socket:[").rstrip("]"))
            except OSError:
                continue  # closed meanwhile
    found = []
    for table, called in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        lines = [line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
        found += [f"{table} {words[1]}" for words in lines if words[3] == called and words[9] in inodes]
    return found


def sockets_of(pids: list[int]) -> list[str]:
    """The paths of the Unix sockets at which processes listen; abstract ones begin with "@"."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes.add(str(link.readlink()).removeprefix("socket:[").rstrip("]"))
            except OSError:
                continue
    lines = [line.split(maxsplit=7) for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    # A listening socket has the flag __SO_ACCEPTCON.
    return sorted(
        words[7] for words in lines if len(words) == 8 and int(words[3], 16) & 0x10000 and words[6] in inodes
    )


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that others may enter, as that of a user may be."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.parametrize("deep", ["state", "s" * 120, "with,comma", "with space%20é#?"])
async def test_an_etcd_on_a_socket_answers_its_user_and_has_no_port_one_life_after_the_other(
    home: Path, deep: str
) -> None:
    wanted = home / deep / "sockets"
    server = EtcdServer(home / deep / "etcd", sockets=opened(wanted))
    try:
        for life in range(3):
            server.start()
            assert listening([server.pid]) == []
            store = EtcdStore([server.endpoint], SystemClock(), random.Random(1))
            before = await store.get("life")
            assert (
                before is None if life == 0 else before is not None and before.value == f"{life - 1}".encode()
            )
            assert (await store.transact([], [Put("life", f"{life}".encode())])).succeeded
            await store.close()
            server.kill()
    finally:
        server.stop()
        remove_sockets(wanted)
    assert not os.path.lexists(wanted)


async def test_an_etcd_on_a_port_has_that_one_and_no_gateway_for_web_pages(home: Path) -> None:
    server = EtcdServer(home / "etcd")
    server.start()
    try:
        host, _, port = server.endpoint.rpartition(":")
        assert [line.rpartition(":")[2] for line in listening([server.pid])] == [f"{int(port):04X}"]
        reader, writer = await asyncio.open_connection(host, int(port))
        body = json.dumps({"key": "eA==", "value": "eQ=="})
        request = f"POST /v3/kv/put HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        writer.write(request.encode())
        assert b" 404 " in await asyncio.wait_for(reader.readline(), 30)
        writer.close()
    finally:
        server.stop()


@pytest.fixture(params=["state", "s" * 120], ids=["short", "deep"])
def up(request: pytest.FixtureRequest, home: Path) -> Iterator[ClusterRun]:
    """Two peers that train."""
    job = write_job(home / "job", records=9600, batch=16, iterations=1_000_000, pace_ms=20)
    with cluster_run(home / request.param) as run:
        run.start("cluster", "up", "--peers", "2", "--solver", str(job.solver))
        wait_for(
            "both exchange", lambda: sum(p["exchanges_applied"] > 3 for p in run.training().values()) == 2
        )
        yield run
        done = run.run("cluster", "down")
        assert done.returncode == 0, done.stderr
        run.assert_nothing_is_left()
        assert not os.path.lexists(run.folder / "clusters" / "local" / "sockets")


def test_a_running_cluster_listens_nowhere_but_in_folders_of_its_user(up: ClusterRun) -> None:
    assert listening(list(up.processes())) == []
    paths = sockets_of(list(up.processes()))
    assert len(paths) >= 6, paths  # etcd's, the supervisor's, and two of each peer
    folder = socket_path(up.status()["etcd"])
    assert folder is not None
    for path in folder.parent.iterdir():
        assert path.is_socket()
        assert not stat.S_IMODE(path.lstat().st_mode) & 0o077, path
    assert stat.S_IMODE(folder.parent.lstat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_every_socket_of_a_running_cluster_refuses_another_user(up: ClusterRun) -> None:
    state = up.folder / "clusters" / "local"
    etcd = socket_path(up.status()["etcd"])
    assert etcd is not None
    paths = [str(path) for path in (*etcd.parent.iterdir(), state / "supervisor.sock")]
    abstract = [path for path in sockets_of(list(up.processes())) if path.startswith("@")]
    assert len(paths) >= 7
    assert len(abstract) == 2  # for the weights of large models, one of each peer
    done = subprocess.run(
        [sys.executable, "-c", KNOCK.format(id=NOBODY)],
        input=json.dumps([*paths, *abstract]),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    answers = json.loads(done.stdout)
    assert answers.keys() == {*paths, *abstract}
    # An abstract socket has no mode: whoever is not its user is hung up on, and told nothing.
    assert {answers[path] for path in abstract} == {"hangs up"}
    # Of a path that is longer than a socket's address nobody is told more than that.
    assert {answers[path] for path in paths if len(path) <= 107} == {"Permission denied"}


def test_another_peer_joins_it_by_its_socket_and_leaves_no_socket_behind(up: ClusterRun) -> None:
    etcd = up.status()["etcd"]
    assert etcd.startswith("unix:/")
    folder = Path(etcd.removeprefix("unix:")).parent
    before = set(folder.iterdir())
    words = ("peer", "start", "--etcd", etcd, "--job", "solver", "--name", "guest")
    guest = subprocess.Popen(up.command(*words, "--run-dir", str(up.folder / "guest")), env=up.environment)
    try:
        wait_for("it exchanges", lambda: up.training().get("guest", {}).get("exchanges_applied"))
        own = set(folder.iterdir()) - before
        assert len(own) == 2, "one for calls, one for metrics"
        assert all(path.name.startswith(f"peer-{guest.pid}-") for path in own)
        assert listening([guest.pid]) == []
    finally:
        guest.terminate()
        assert guest.wait(120) == ExitCode.LEFT
    assert set(folder.iterdir()) == before


def test_a_port_of_etcd_is_opened_by_a_word_and_peers_then_have_ports_too(home: Path) -> None:
    job = write_job(home / "job", records=9600, batch=16, iterations=1_000_000, pace_ms=20)
    with cluster_run(home / "state") as run:
        words = ("--etcd-listen", "127.0.0.1:0", "--allow-code", "--peers", "1", "--solver", str(job.solver))
        run.start("cluster", "up", *words)
        wait_for("it trains", lambda: len(run.training()) == 1)
        host, _, port = run.status()["etcd"].rpartition(":")
        assert host == "127.0.0.1"
        ports = [line.rpartition(":")[2] for line in listening(list(run.processes()))]
        assert f"{int(port):04X}" in ports
        assert len(ports) == 4  # etcd's for clients, the peer's two, and that of its metrics
        done = run.run("peer", "list", "--etcd", f"127.0.0.1:{port}")
        assert "127.0.0.1:" in done.stdout
        assert run.run("cluster", "down").returncode == 0
        run.assert_nothing_is_left()
