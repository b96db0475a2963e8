"""A chaos run with a network namespace for each peer: a partition is silence, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from gossip_caffe.chaos.own_network import namespace_command, network_id
from gossip_caffe.errors import EnvironmentProblem
from gossip_caffe.gossip.policy.deadline import FIRST_S
from tests.cluster_run import ClusterRun, cluster_run, wait_for
from tests.tiny_job import write_job

TTL_S, APART_S = 4.0, 12.0
IN_FLIGHT_S = 1.5
"""So long after a partition began an exchange may still be written down that was over before."""
GIVEN_UP_S = FIRST_S + 1.0
"""So long one whose offer arrived before and whose answer did not: who answered learns of it by the deadline."""
SCENARIO = f"""network = "namespaces"
seed = 5
peers = 3
at_least = 3
every_s = [0.1, 0.3]
round_limit_s = 400.0
settings = ["lease_ttl_s={TTL_S:g}"]
[[fault]]
act = "partition"
for_s = {APART_S}
"""
FORBIDDEN = 'echo 0 > /proc/sys/user/max_net_namespaces && exec "$@"'


@pytest.fixture
def words(tmp_path: Path) -> tuple[str, ...]:
    job = write_job(tmp_path / "job", records=9600, batch=16, iterations=5_000, pace_ms=10)
    # Without an accuracy no run in peace comes first.
    before, _, after = job.net.read_text().partition('layer {\n  name: "accuracy"')
    job.net.write_text(before + "layer {" + after.partition("layer {")[2])
    (tmp_path / "some.toml").write_text(SCENARIO)
    scenario, folder = str(tmp_path / "some.toml"), str(tmp_path / "run")
    return ("chaos", "run", scenario, "--solver", str(job.solver), "--folder", folder)


@pytest.fixture
def untouched() -> Iterator[None]:
    """Namespaces are allowed here, and the test leaves this machine's own network as it is."""
    try:
        namespace_command()
    except EnvironmentProblem as error:
        pytest.skip(str(error))
    before = socket.if_nameindex()
    yield
    assert socket.if_nameindex() == before


@pytest.mark.usefixtures("untouched")
def test_a_peer_is_parted_in_silence_for_longer_than_its_lease_and_the_job_ends_whole(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    with cluster_run(tmp_path / "state") as run:
        done = run.run(*words, "--json", deadline_s=600.0)
        assert done.returncode == 0, done.stderr + done.stdout
        run.assert_nothing_is_left()
    record = json.loads(done.stdout)
    assert record["others"] == {"partition": 1}
    assert (record["records_lost"], record["broken"], record["failed"]) == (0, [], [])
    folder = tmp_path / "run" / "clusters" / "round-1" / "run"
    (fault,) = [event for event in read(folder / "observer.jsonl") if event["event"] == "fault"]
    began, parted = fault["t"], fault["peer"]
    logs = {path.stem: read(path) for path in (folder / "events").glob("*.jsonl")}
    apart = {
        peer: [event for event in log if began < event["t"] < began + APART_S] for peer, log in logs.items()
    }
    assert any(event["event"] == "lease-lost" for event in apart[parted])
    for peer in logs.keys() - {parted}:
        assert any(
            (event["event"], event.get("member"), event.get("new")) == ("member", parted, "")
            for event in apart[peer]
        ), f"{peer} did not see that {parted} was away"
    exchanged = [
        (peer, event)
        for peer, log in apart.items()
        for event in log
        if event["event"] == "exchanged" and event["t"] > began + IN_FLIGHT_S
    ]
    across = [event for peer, event in exchanged if parted in {peer, event["partner"]}]
    applied = [event["t"] for event in across if event["outcome"] == "applied"]
    assert not [at for at in applied if at > began + GIVEN_UP_S]
    reasons = " ".join(event.get("reason", "") for event in across)
    assert "deadline" in reasons, "nobody tried to reach the other side"
    assert not {"reset", "refused"} & set(reasons.split()), "somebody was told, and not left in silence"
    assert any(event["outcome"] == "applied" for _, event in exchanged), "the others stood still"
    last = logs[parted][-1]
    assert (last["event"], last["reason"]) == ("left", "drained")
    assert last["t"] > began + APART_S, "it heard of the job's end while it was apart"


@pytest.mark.usefixtures("untouched")
def test_a_run_that_is_killed_leaves_neither_processes_nor_namespaces(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    with cluster_run(tmp_path / "state") as run, ExitStack() as opened:
        first = run.start(*words)
        log = run.folder / "up.log"
        wait_for("a peer is parted", lambda: "partition for" in log.read_text())
        networks = networks_of(run, opened)
        assert len(networks) == 4, "one for each peer, and that of the run"
        assert network_id() not in networks
        os.kill(first.pid, signal.SIGKILL)
        first.wait(10)
        run.assert_nothing_is_left()

        def inhabited() -> set[int]:
            return {network for path in Path("/proc").glob("[0-9]*") if (network := network_of(path))}

        # A process that ends lets go of its memory, and with it of what names its run, before it leaves its network.
        wait_for("nobody is in its networks", lambda: not networks & inhabited())


def test_where_namespaces_are_forbidden_one_line_says_so_before_anything_starts(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    with cluster_run(tmp_path / "state") as run:
        forbid = ("unshare", "--user", "--map-root-user", "sh", "-c", FORBIDDEN, "forbidden")
        if subprocess.run([*forbid, "true"], capture_output=True, check=False).returncode:
            pytest.skip("users may make no namespaces here at all")
        done = subprocess.run(
            [*forbid, *run.command(*words)], env=run.environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 6
    (line,) = done.stderr.splitlines()
    assert line.startswith("gossip-caffe: this machine does not allow network namespaces (unshare: ")
    assert 'network = "loopback"' in line
    assert not (tmp_path / "run").exists()


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def network_of(process: Path) -> int:
    """The network namespace of a process; 0 when it is gone."""
    try:
        return (process / "ns" / "net").stat().st_ino
    except OSError:
        return 0


def networks_of(run: ClusterRun, opened: ExitStack) -> set[int]:
    """The network namespaces of a run, kept open: the kernel gives none of their numbers away again meanwhile."""
    networks = set()
    for pid in run.processes():
        with suppress(FileNotFoundError):  # it has ended meanwhile
            file = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
            opened.callback(os.close, file)
            networks.add(os.fstat(file).st_ino)
    return networks
