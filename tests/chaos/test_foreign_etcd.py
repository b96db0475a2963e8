"""Somebody else writes into the etcd of a living cluster: real etcd, real peers, real files."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.clock import SystemClock
from gossip_caffe.membership.etcd.access.endpoints import parse_endpoints
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.etcd.store import Delete, DeletePrefix, Operation, Put
from gossip_caffe.membership.keys import JobKeys
from tests.cluster_run import ClusterRun, cluster_run, wait_for
from tests.hostile import IDS, tree_digest
from tests.tiny_job import write_job

KEYS = JobKeys("solver")
PEERS = 2
EPOCHS_S = 300.0
PACE_MS, LOOKED = 5, 600
"""Each peer looks at the checkpoints twice a second: within so many of its iterations several times."""


def written(endpoint: str, transactions: Sequence[Sequence[Operation]]) -> None:
    async def write() -> None:
        store = EtcdStore(parse_endpoints(endpoint), SystemClock(), random.Random())
        try:
            for operations in transactions:
                await store.transact([], operations)
        finally:
            await store.close()

    asyncio.run(write())


def names(endpoint: str, prefix: str) -> list[str]:
    async def read() -> list[str]:
        store = EtcdStore(parse_endpoints(endpoint), SystemClock(), random.Random())
        try:
            return [key.removeprefix(prefix) for key in await store.keys(prefix)]
        finally:
            await store.close()

    return asyncio.run(read())


def said(run: ClusterRun) -> str:
    logs = run.folder / "clusters" / "local" / "logs"
    return "\n".join(path.read_text(errors="replace") for path in logs.glob("p*.log"))


def copies(run: ClusterRun) -> dict[str, list[str]]:
    root = run.folder / "clusters" / "local" / "run" / "checkpoints"
    return {path.name: CheckpointFolder(path, own=False).ids() for path in sorted(root.iterdir())}


@pytest.mark.timeout(400)
def test_hostile_ids_and_one_foreign_transaction_cost_a_living_cluster_nothing(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", records=4000, iterations=20_000, pace_ms=PACE_MS)
    outside = tmp_path / "outside"
    (outside / "victim").mkdir(parents=True)
    (outside / "victim" / "file").write_text("keep me")
    with cluster_run(tmp_path / "state") as run:
        process = run.start(
            *("cluster", "up", "--peers", str(PEERS), "--solver", str(job.solver)),
            *("--set", "checkpoint_every_samples=2000", "--set", "lease_ttl_s=30"),
        )
        wait_for("both train", lambda: len(run.training()) == PEERS)
        wait_for("each has two copies", lambda: min(map(len, copies(run).values()), default=0) >= 2)
        etcd = run.status()["etcd"]
        before, untouched = copies(run), tree_digest(outside)
        holder = next(iter(copies(run)))
        deep = "/".join([".."] * 12)
        hostile = [*(name for name in IDS if name not in {"", "\ud800"}), f"zz/{deep}{outside}/victim"]
        transactions: list[list[Operation]] = []
        for name in hostile:
            value = json.loads(
                Announcement("0", "0" * 64, 10**9, time.time(), {holder: "127.0.0.1:9"}).to_json()
            )
            value["checkpoint"] = name
            transactions.append([Put(KEYS.checkpoint(name), json.dumps(value).encode())])
        transactions.append([Put(KEYS.finished, b'{"checkpoint": "nothing"}')])
        transactions.append([Put(KEYS.leave("p0"), b'{"by": "somebody"}')])
        transactions.append([Put(KEYS.peer("p1"), b"\xff")])
        transactions.append([Put(KEYS.folded, b"garbage")])
        bogus = Announcement("00000000999999-zz", "0" * 64, 999_999, time.time(), {"nobody": "127.0.0.1:9"})
        there = [Delete(KEYS.checkpoint(name)) for name in names(etcd, KEYS.checkpoints)]
        written(etcd, transactions)
        wait_for("hostile ids are said", lambda: "is no checkpoint's id" in said(run))
        written(etcd, [[DeletePrefix(KEYS.checkpoints), Put(f"{KEYS.root}x", b"")]])
        written(etcd, [[Put(KEYS.checkpoint(bogus.checkpoint), bogus.to_json())]])
        assert there
        wait_for("it is said", lambda: "no peer took it back" in said(run))
        wait_for("the record is put right", lambda: "it is this peer's own" in said(run))
        both = wait_for("both train", lambda: found if len(found := run.training()) == PEERS else {})
        wait_for(
            "both have trained on, and looked at the checkpoints",
            lambda: (
                sum(
                    status["iteration"] >= both[peer]["iteration"] + LOOKED
                    for peer, status in run.peers().items()
                )
                == PEERS
            ),
        )
        now = copies(run)
        for peer, had in before.items():
            assert set(had) <= set(now[peer]), "ten minutes are not over"
        assert tree_digest(outside) == untouched
        assert sorted(run.training()) == ["p0", "p1"]
        job.hurry()
        wait_for("the job ends", lambda: process.poll() is not None, EPOCHS_S)
        assert process.returncode == 0, (run.folder / "up.log").read_text()[-3000:]
        assert "Traceback" not in said(run)
        assert tree_digest(outside) == untouched
        for peer, had in before.items():
            newest = sorted({*had, *copies(run)[peer]})[-2:]
            assert set(newest) <= set(copies(run)[peer])
        run.assert_nothing_is_left()
