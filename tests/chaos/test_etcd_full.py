"""etcd's quota is used up in the middle of training: nobody stops, one line says so, and the account is whole."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import time
import urllib.request
from pathlib import Path
from typing import Any

from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.errors import WritesRefused
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.etcd.store import Put
from gossip_caffe.observe.checker.verdict import InvariantStatus, verdict_of
from gossip_caffe.observe.log.events import Event
from gossip_caffe.observe.log.reading import read_history
from gossip_caffe.observe.log.runs import one_by_one
from tests.cluster_run import cluster_run, wait_for
from tests.tiny_job import write_job

FULL_S = float(os.environ.get("ETCD_FULL_S", "15"))
PACE_MS = 20
QUOTA_BYTES = 12_000_000
WINDOW_S = 5.0
"""In each so long part of the time without writes every peer must have trained."""
JUNK_BYTES = 900_000


async def fill(endpoint: str) -> None:
    """Write until etcd takes no more."""
    store = EtcdStore([endpoint], SystemClock(), random.Random(1))
    try:
        refusal = ""
        for number in range(100):
            try:
                await store.transact([], [Put(f"/junk/{number}", os.urandom(JUNK_BYTES))])
            except WritesRefused as error:
                refusal = str(error)
                break
        assert "database space exceeded; compact, defragment" in refusal
        assert await store.refusal() == refusal
    finally:
        await store.close()


def make_room(endpoint: str) -> None:
    """As the line says: compact, defragment, disarm; what filled it is removed first."""

    def ask(method: str, request: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps(request).encode()
        with urllib.request.urlopen(f"http://{endpoint}/v3/{method}", body, timeout=60) as reply:
            answer: dict[str, Any] = json.loads(reply.read())
            return answer

    keys = [base64.b64encode(key).decode() for key in (b"/junk/", b"/junk0")]
    revision = ask("kv/deleterange", {"key": keys[0], "range_end": keys[1]})["header"]["revision"]
    ask("kv/compaction", {"revision": revision, "physical": True})
    ask("maintenance/defragment", {})
    for alarm in ask("maintenance/alarm", {"action": "GET"})["alarms"]:
        ask("maintenance/alarm", {"action": "DEACTIVATE", **alarm})


def trained_at(log: Path) -> list[float]:
    events = one_by_one(read_history(log.parent, log.stem).events)
    return [float(event["m"]) for event in events if event["event"] == Event.TRAINED]


def test_while_etcd_takes_no_writes_nobody_stops_and_a_joiner_waits(tmp_path: Path) -> None:
    iterations = int((30 + FULL_S) * 1000 / PACE_MS * 2)
    job = write_job(tmp_path / "job", records=20_000, batch=16, iterations=iterations, pace_ms=PACE_MS)
    flags = ("--quota-backend-bytes", str(QUOTA_BYTES), "--enable-grpc-gateway=true")
    etcd = EtcdServer(tmp_path / "etcd", flags=flags)
    etcd.start()
    try:
        with cluster_run(tmp_path / "state") as run:
            arguments = ("--peers", "2", "--solver", str(job.solver), "--etcd", etcd.endpoint, "--allow-code")
            process = run.start("cluster", "up", *arguments)
            wait_for("both train", lambda: len(run.training()) == 2)
            folder = run.folder / "clusters" / "local"
            logs = sorted((folder / "run" / "events").glob("*.jsonl"))
            assert len(logs) == 2
            asyncio.run(fill(etcd.endpoint))
            began = time.monotonic()
            wait_for("status says so", lambda: "alarm disarm" in run.status()["etcd_refuses"])
            assert "etcd refuses writes" in run.run("cluster", "status").stdout
            created = run.run("job", "create", "other", "--solver", str(job.solver), "--etcd", etcd.endpoint)
            assert created.returncode == 4
            assert "etcd refuses writes: mvcc: database space exceeded; compact" in created.stderr
            run.run("cluster", "scale", "3")
            joiner = wait_for(
                "the joiner says that it waits",
                lambda: [
                    log for log in (folder / "logs").glob("*.log") if "it waits, and joins" in log.read_text()
                ],
            )
            wait_for("it is time", lambda: time.monotonic() > began + FULL_S, FULL_S + 10)
            assert process.poll() is None
            make_room(etcd.endpoint)
            ended = time.monotonic()
            wait_for("the joiner trains", lambda: len(run.training()) == 3)
            job.hurry()
            wait_for("the job is finished", lambda: process.poll() is not None, 300.0)
            said = (run.folder / "up.log").read_text()
            assert process.returncode == 0, said
            run.assert_nothing_is_left()
    finally:
        etcd.stop()
    told = [line for line in said.splitlines() if "compact, defragment, then 'etcdctl alarm disarm'" in line]
    assert len([line for line in told if line.startswith("etcd refuses writes: mvcc: database space")]) == 1
    assert all("it waits, and joins" in line for line in told[1:]), said
    assert len(told) <= 2
    assert said.count("etcd takes writes again") == 1
    for log in logs:
        words = (folder / "logs" / f"{log.stem}.log").read_text()
        assert words.count("etcd refuses writes") == 1, words
        assert words.count("etcd takes writes again") == 1
        times = trained_at(log)
        for window in range(int((ended - began) / WINDOW_S)):
            first = began + window * WINDOW_S
            assert any(first < at <= first + WINDOW_S for at in times), f"{log.stem} stood still"
    assert joiner[0].read_text().count("etcd refuses writes") == 1
    found = verdict_of(folder / "run")
    assert found.broken == ()
    assert found.counters.records_lost == 0
    assert found.counters.leases_lost == 0
    assert found.standing("full-coverage") is InvariantStatus.HOLDS
