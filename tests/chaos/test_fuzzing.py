"""Whatever a stranger sends to a living peer, it refuses with a code, and it and its training go on.

``GOSSIP_CAFFE_FUZZ=full`` sends 100,000 messages and 10,000 streams to each of the two ports (some minutes).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gossip_caffe.gossip.codecs.message import Refusal
from gossip_caffe.gossip.transport.frame_codec import RawFrame, parsed
from gossip_caffe.gossip.transport.frames import Incoming
from gossip_caffe.gossip.transport.grpc_transport import SERVICE
from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.observe.log.events import read_events
from gossip_caffe.wire import etcd_pb2
from gossip_caffe.wire import gossip_pb2 as wire
from tests.cluster_run import ClusterRun, cluster_run, wait_for
from tests.tiny_job import write_job
from tests.wire_fuzz import Stranger, bulk_stream, call, http2_stream

pytestmark = pytest.mark.xdist_group("fuzzing")  # one cluster, all of whose peers go on to the end

FULL = os.environ.get("GOSSIP_CAFFE_FUZZ") == "full"
MESSAGES, STREAMS = (100_000, 10_000) if FULL else (1_500, 200)
AT_ONCE = 3
"""Fewer than a peer answers at one time, or most would be refused for that alone."""
GROWTH_BYTES = 24 << 20
"""The allocators of Python and gRPC keep some of what they had; a leak of a kilobyte a call would be 80 MB."""
CALL_S = 60.0
CODES = {"INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}
"""Of gRPC, besides the refusals of the exchange; the last is for messages that are longer than gRPC takes at all."""


@dataclass
class Target:
    """The peer that is struck."""

    address: str
    stranger: Stranger
    outcomes: Counter[str] = field(default_factory=Counter)
    weights_port: int = 0

    @property
    def place(self) -> tuple[str, int]:
        host, _, port = self.address.rpartition(":")
        return host, int(port)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterRun]:
    """Two peers that train and exchange; in the end they leave in good order."""
    folder = tmp_path_factory.mktemp("fuzzed")
    job = write_job(folder / "job", records=9600, batch=64, iterations=100_000_000, pace_ms=5)
    with cluster_run(folder / "state") as run:
        # On ports: a stranger does not reach a cluster that has none.
        on_ports = ("--etcd-listen", "127.0.0.1:0", "--allow-code", "--metrics-listen", "none")
        start = ("cluster", "up", *on_ports, "--peers", "2", "--solver", str(job.solver))
        run.start(*start, "--set", "lease_ttl_s=60")
        wait_for("both train", lambda: len(run.training()) == 2)
        yield run
        done = run.run("cluster", "down")
        assert done.returncode == 0, done.stderr
        run.assert_nothing_is_left()


def logged(run: ClusterRun) -> str:
    return "".join(path.read_text() for path in (run.folder / "clusters" / "local" / "logs").glob("p*.log"))


def memory_bytes(pid: int) -> int:
    """What a process has of its own."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


def target_of(run: ClusterRun) -> Target:
    """p0, as somebody may know it who means ill."""
    run_dir = run.folder / "clusters" / "local" / "run"
    events = list(read_events(run_dir / "events" / "p0.jsonl"))
    layout = next(str(event["layout"]) for event in events if event["event"] in {"founded", "joined"})
    ports = listening(run.peers()["p0"]["agent_pid"])
    for port in ports:
        found = asyncio.run(shown(f"127.0.0.1:{port}", layout))
        if found is not None:
            (weights_port,) = set(ports) - {port}
            return Target(f"127.0.0.1:{port}", Stranger("solver", layout, found), weights_port=weights_port)
    raise AssertionError("p0 shows its weights at none of its ports")


def listening(pid: int) -> list[int]:
    """The TCP ports on which a process listens."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(str(link.readlink()).removeprefix("socket:[").rstrip("]"))
        except OSError:
            continue
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                ports.add(int(words[1].rpartition(":")[2], 16))
    return sorted(ports)


async def shown(address: str, layout: str) -> np.ndarray[Any, np.dtype[np.float32]] | None:
    async with grpc.aio.insecure_channel(address) as channel:
        ask = channel.unary_stream(
            f"/{SERVICE}/Snapshot", wire.SnapshotRequest.SerializeToString, response_deserializer=parsed
        )
        try:
            answer = await Incoming(
                ask(wire.SnapshotRequest(peer="stranger", job="solver", fingerprint=layout), timeout=10.0)
            ).whole(1 << 30)
        except grpc.aio.AioRpcError:
            return None
    return np.frombuffer(answer.payload, dtype="<f4").copy()


# ── what is sent ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def strike(target: Target, count: int, seed: int) -> None:
    """Make ``count`` mutated calls, a few at a time."""
    numbers = iter(range(seed * 10_000_000, seed * 10_000_000 + count))

    async def worker() -> None:
        async with grpc.aio.insecure_channel(
            target.address, options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            for number in numbers:
                target.outcomes[await made(target, channel, number)] += 1

    async with asyncio.TaskGroup() as workers:
        for _ in range(AT_ONCE):
            workers.create_task(worker())


async def made(target: Target, channel: Any, number: int) -> str:
    """Make one call; returns how it ended, in a word."""
    rng = random.Random(number)
    asked = call(target.stranger, number, rng)
    path = f"/{SERVICE}/{asked.method}"
    if asked.method == "Exchange":

        async def sent() -> Any:
            for place, message in enumerate(asked.messages):
                if place == asked.hangs_up_after:
                    calling.cancel()
                yield message

        calling = channel.stream_stream(path, response_deserializer=parsed)(sent(), timeout=CALL_S)
    else:
        calling = channel.unary_stream(path)(asked.messages[0], timeout=CALL_S)
    last: Any = None
    try:
        async for part in calling:
            if asked.method == "Exchange" and last is None and part.WhichOneof("part") == "ready":
                await spoil_swap(target, part.ready, rng)
            last = part if last is None or not isinstance(part, RawFrame) else last
    except grpc.aio.AioRpcError as error:
        code = str(error.code().name)
        return code if code in CODES else f"{code}: {error.details()}"
    except asyncio.CancelledError:
        return "hung up"
    if asked.method == "Exchange" and last is not None and last.WhichOneof("part") == "header":
        return Refusal(last.header.refusal).name
    return f"{asked.method} answered"


async def spoil_swap(target: Target, ready: Any, rng: random.Random) -> None:
    if rng.random() < 0.998:  # else the peer waits for us
        await pour(("127.0.0.1", ready.port), bulk_stream(rng, ready.ticket), rng)


async def pour(place: tuple[str, int], data: bytes, rng: random.Random) -> None:
    """Send bytes to a port, wait sometimes for what comes, and hang up, sometimes rudely."""
    reader, writer = await asyncio.open_connection(*place)
    try:
        writer.write(data)
        if rng.random() < 0.5:
            writer.write_eof()
            async with asyncio.timeout(CALL_S):
                await reader.read()
        elif rng.random() < 0.5:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    except OSError:
        pass  # it had enough of it
    finally:
        writer.close()


async def pour_all(target: Target, count: int, seed: int) -> None:
    """Send ``count`` streams of bytes to each port."""
    numbers = iter(range(seed * 10_000_000, seed * 10_000_000 + count))

    async def worker() -> None:
        for number in numbers:
            rng = random.Random(number)
            await pour(target.place, http2_stream(rng), rng)
            await pour(("127.0.0.1", target.weights_port), bulk_stream(rng), rng)

    async with asyncio.TaskGroup() as workers:
        for _ in range(4 * AT_ONCE):
            workers.create_task(worker())


# ── what must come of it ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.timeout(3600)
def test_whatever_a_stranger_sends_is_refused_with_a_code_and_training_goes_on(run: ClusterRun) -> None:
    target = target_of(run)
    before = run.training()
    assert set(before) == {"p0", "p1"}
    # The first of everything fills what is remembered of strangers, which is bounded.
    asyncio.run(strike(target, MESSAGES // 3, seed=1))
    asyncio.run(pour_all(target, STREAMS // 3, seed=2))
    filled = memory_bytes(before["p0"]["agent_pid"])
    asyncio.run(strike(target, MESSAGES - MESSAGES // 3, seed=3))
    asyncio.run(pour_all(target, STREAMS - STREAMS // 3, seed=4))
    grown = memory_bytes(before["p0"]["agent_pid"]) - filled
    print(
        f"{MESSAGES:,} messages, 2 × {STREAMS:,} streams: {dict(target.outcomes)}; grown by {grown:,} bytes"
    )

    assert grown < GROWTH_BYTES
    known = {*(refusal.name for refusal in Refusal), *CODES, "hung up"}
    assert set(target.outcomes) <= known | {"Exchange answered", "Snapshot answered", "Pull answered"}
    for refusal in ("NON_FINITE", "CORRUPT_FRAME", "LAYOUT_MISMATCH", "UNKNOWN_CODEC", "INVALID_ARGUMENT"):
        assert target.outcomes[refusal], f"nothing was refused as {refusal}: the fuzzing is too tame"
    assert target.outcomes["NONE"], "nothing was in order: the fuzzing is too wild"

    def trained_on() -> bool:
        now = run.training()
        return set(now) == set(before) and all(
            now[name]["iteration"] > before[name]["iteration"] + 100
            and now[name]["exchanges_applied"] > before[name]["exchanges_applied"] + 2
            for name in now
        )

    wait_for("both train and exchange on", trained_on)
    for name, peer in run.training().items():
        for same in ("agent_pid", "solver_pid", "loader_pid", "solver_restarts"):
            assert peer[same] == before[name][same], name
        assert np.isfinite(peer["loss"])
    assert "Traceback" not in logged(run), logged(run)[-3000:]


# ── etcd ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

PLACES = (
    *("peers/stranger", "peers/p1", "status/p1", "status/stranger", "leave/p0", "leave/stranger", "tested"),
    *(
        "checkpoints/{n}",
        "duty/stranger",
        "founder/x",
        "ledger/done/x",
        "ledger/claims/00000000/1",
        "what/is/this",
    ),
)


def garbage(number: int, rng: random.Random) -> tuple[bytes, bytes]:
    """A key below the job's, and a value that no peer writes."""
    key = rng.choice(PLACES).format(n=number).encode()
    if rng.random() < 0.1:
        key += rng.randbytes(4)
    record: dict[str, object] = {
        name: rng.choice((None, "x", -1, [], {}, 1e308)) for name in ("peer", "state", "weight", "holders")
    }
    record |= {name: rng.choice(("p1", 7, {})) for name in ("checkpoint", "outputs", "by", "address")}
    values = (
        rng.randbytes(rng.randrange(50)),
        b"",
        b"null",
        b"[]",
        b"3",
        b"[" * 50_000,
        json.dumps(record).encode(),
    )
    value = rng.choice(values)
    if key.startswith(b"leave/p0") and value.startswith(b"{"):
        value = b"{}"  # a request to leave is one, whoever wrote it
    return b"/gossip-caffe/jobs/solver/" + key, value


async def scribble(endpoint: str, count: int) -> None:
    async with grpc.aio.insecure_channel(endpoint) as channel:
        put = channel.unary_unary("/etcdserverpb.KV/Put", etcd_pb2.PutRequest.SerializeToString)
        for number in range(count):
            key, value = garbage(number, random.Random(number))
            await put(etcd_pb2.PutRequest(key=key, value=value), timeout=CALL_S)


def test_another_writers_garbage_in_etcd_stops_nobody(run: ClusterRun) -> None:
    before = run.training()
    asyncio.run(scribble(run.status()["etcd"], 3_000 if FULL else 300))

    def trained_on() -> bool:
        # p1 is a partner again once it writes its own record: it does when its throughput has changed, or it leaves.
        now = run.training()
        return "p0" in now and now["p0"]["iteration"] > before["p0"]["iteration"] + 200

    wait_for("p0 trains on", trained_on)
    wait_for("p1's status is its own again", lambda: "p1" in run.training())
    for name, peer in run.training().items():
        for same in ("agent_pid", "solver_pid", "loader_pid", "solver_restarts"):
            assert peer[same] == before[name][same], name
    assert run.run("cluster", "status").returncode == 0
    assert run.run("shards", "show", "--job", "solver", "--etcd", run.status()["etcd"]).returncode == 0
    assert run.run("peer", "list", "--etcd", run.status()["etcd"]).returncode == 0
    assert "Traceback" not in logged(run), logged(run)[-3000:]
