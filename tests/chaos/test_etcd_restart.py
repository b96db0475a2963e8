"""etcd dies and comes back in the middle of training: no peer ends, and the account is whole in the end."""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

import pytest

from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.data.sources.source import measure
from gossip_caffe.errors import LeaseLost, StoreUnavailable
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.etcd.store import Absent, Changed, ModifiedAt, Put, Reset
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.observe.checker.verdict import InvariantStatus, verdict_of
from gossip_caffe.observe.history.account import account_of
from gossip_caffe.observe.log.events import Event, read_events
from gossip_caffe.observe.log.reading import read_history
from gossip_caffe.observe.log.runs import one_by_one
from tests.cluster_run import cluster_run, wait_for
from tests.etcd_copy import EtcdCopied
from tests.event_logs import read_logs, wait_for_more_done
from tests.tiny_job import write_job

PACE_MS = 20


AWAY_S = float(os.environ.get("ETCD_AWAY_S", "12"))
MORE_CHUNKS = 20
"""So many more chunks are done by each peer before the next thing happens."""
LEASE_TTL_S = JobSettings().lease_ttl_s
WINDOW_S = 2.0
"""In each so long part of the time without etcd every peer must have trained."""


def trained_at(log: Path) -> list[float]:
    events = one_by_one(read_history(log.parent, log.stem).events)
    return [float(event["m"]) for event in events if event["event"] == Event.TRAINED]


def test_while_etcd_is_away_no_peer_stops_stepping_and_nothing_is_lost(tmp_path: Path) -> None:
    seconds = 30 + AWAY_S
    iterations = int(seconds * 1000 / PACE_MS * 2)
    job = write_job(tmp_path / "job", records=20_000, batch=16, iterations=iterations, pace_ms=PACE_MS)
    etcd = EtcdServer(tmp_path / "etcd")
    etcd.start()
    try:
        with cluster_run(tmp_path / "state") as run:
            arguments = ("--peers", "2", "--solver", str(job.solver), "--etcd", etcd.endpoint, "--allow-code")
            process = run.start("cluster", "up", *arguments)
            wait_for("both train", lambda: len(run.training()) == 2)
            logs = sorted((run.folder / "clusters" / "local" / "run" / "events").glob("*.jsonl"))
            assert len(logs) == 2
            etcd.kill()
            went = time.monotonic()
            wait_for("it is time", lambda: time.monotonic() > went + AWAY_S, AWAY_S + 10)
            back = time.monotonic()
            etcd.start()
            for log in logs:
                assert any(event["event"] == Event.LEASE_LOST for event in read_events(log))
            wait_for_more_done(run.folder / "clusters" / "local" / "run", MORE_CHUNKS)
            job.hurry()
            wait_for("the job is finished", lambda: process.poll() is not None, 300.0)
            assert process.returncode == 0, (run.folder / "up.log").read_text()
            spec = read_job("job", job.solver, JobSettings(), measure)
            found = account_of(run.folder / "clusters" / "local" / "run", spec)
            assert (found.records_lost, found.records_trained) == (0, spec.budget_samples)
            assert found.peers_killed == 0
            run.assert_nothing_is_left()
    finally:
        etcd.stop()
    for log in logs:
        times = trained_at(log)
        for window in range(int((back - went) / WINDOW_S)):
            began = went + window * WINDOW_S
            assert any(began < at <= began + WINDOW_S for at in times), f"{log.stem} stood still"
    print(f"twice {found.records_twice}, of {found.records_trained}")
    # Two peers whose views agreed train no chunk twice, but for what was in the air when etcd went away.
    assert found.records_twice <= 64 * spec.data.chunk_records


def test_etcd_is_put_back_to_an_older_copy_twice_and_the_job_goes_on_and_loses_nothing(
    tmp_path: Path,
) -> None:
    """As whoever restores a backup does it, or a disk that lost its end."""
    job = write_job(tmp_path / "job", records=20_000, batch=16, iterations=10_000, pace_ms=PACE_MS)
    etcd = EtcdCopied(tmp_path / "etcd")
    try:
        with cluster_run(tmp_path / "state") as run:
            arguments = (
                "--peers",
                "2",
                "--solver",
                str(job.solver),
                "--etcd",
                etcd.server.endpoint,
                "--allow-code",
            )
            process = run.start("cluster", "up", *arguments)
            wait_for("both train", lambda: len(run.training()) == 2)
            run_dir = run.folder / "clusters" / "local" / "run"

            def told() -> int:
                return sum(log.count(Event.STORE_FORGOT) for log in read_logs(run_dir).values())

            for away_s in (0.0, LEASE_TTL_S + 1.0):
                wait_for_more_done(run_dir, MORE_CHUNKS)
                etcd.keep()
                wait_for_more_done(run_dir, MORE_CHUNKS)
                before = told()
                asyncio.run(etcd.go_back(away_s=away_s))
                wait_for_more_done(run_dir, MORE_CHUNKS)
                assert told() > before
            job.hurry()
            wait_for("the job is finished", lambda: process.poll() is not None, 300.0)
            assert process.returncode == 0, (run.folder / "up.log").read_text()
            run.assert_nothing_is_left()
    finally:
        etcd.server.stop()
    found = verdict_of(run_dir)
    assert found.broken == ()
    assert found.counters.records_lost == 0
    assert found.counters.kills == 0
    assert found.standing("full-coverage") is InvariantStatus.HOLDS
    assert found.standing("single-owner") is InvariantStatus.UNSEEN


def _known_defect(data_dir: Path, version: str, acknowledged: int, known: int) -> str:
    """Why a server of this ``version`` knows fewer writes than it acknowledged; "" when no known defect explains it.

    etcd 3.5.0 to 3.5.2, killed under load, may count entries of its log as applied that are not in its database
    (etcd issue 13766): it goes back by 26 to 51 writes at some four kills in 500. A single etcd older than 3.5.5
    answers before an entry is in its log (etcd issue 14370): it goes back by what was answered while the log was
    written, which is one write where one is sent after the other.
    """
    release = tuple(int(part) for part in version.split("-", maxsplit=1)[0].split("."))
    value = b"%d" % acknowledged
    entry = b"/t/counter\x12" + bytes([len(value)]) + value
    logs = (data_dir / "member" / "wal").glob("*.wal")
    if (3, 5, 0) <= release <= (3, 5, 2) and any(entry in log.read_bytes() for log in logs):
        return "etcd issue 13766: they are in its own log"
    if release < (3, 5, 5) and acknowledged - known == 1:
        return "etcd issue 14370: answered before it was in the log"
    return ""


async def test_no_acknowledged_write_is_lost_or_doubled_when_etcd_is_killed_under_load(
    tmp_path: Path,
) -> None:
    etcd = EtcdServer(tmp_path / "etcd")
    etcd.start()
    clock = SystemClock()
    store = EtcdStore([etcd.endpoint], clock, random.Random(1))
    session = LeaseSession(store, clock, 30.0)
    await session.start()
    writer = FencedWriter(store, session, "/t/fence", clock)
    await writer.open()
    seen: list[int] = []

    async def watch() -> None:
        async for item in store.watch("/t/counter"):
            if isinstance(item, Reset):
                seen.extend(int(entry.value) for entry in item.listing.items)
            elif isinstance(item, Changed) and item.value is not None:
                seen.append(int(item.value.value))

    watching = asyncio.create_task(watch())
    acknowledged = revision = 0
    refusals: list[str] = []

    async def count_to(target: int) -> None:
        nonlocal acknowledged, revision
        while acknowledged < target:
            guard = ModifiedAt("/t/counter", revision) if revision else Absent("/t/counter")
            try:
                result = await writer.transact([guard], [Put("/t/counter", b"%d" % (acknowledged + 1))])
            except StoreUnavailable as error:
                refusals.append(str(error))
                continue  # surely not applied; a lost lease would fail the test, for it outlives every restart
            assert result.succeeded
            acknowledged, revision = acknowledged + 1, result.revision

    try:
        for round_ in range(1, 4):
            counting = asyncio.create_task(count_to(200 * round_))
            while acknowledged < 200 * round_ - 100:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(etcd.kill)
            await asyncio.to_thread(etcd.start)
            done, _ = await asyncio.wait([counting], timeout=60)
            assert done, f"{acknowledged} written, {refusals[-3:]}; {etcd.log.read_text()[-2000:]}"
            try:
                await counting
            except LeaseLost:
                version, item = await store.version(), await store.get("/t/counter")
                known = int(item.value) if item is not None else 0
                if known < acknowledged and (
                    why := _known_defect(tmp_path / "etcd", version, acknowledged, known)
                ):
                    pytest.skip(f"etcd {version} forgot {acknowledged - known} writes ({why})")
                raise
        async with asyncio.timeout(30):
            while not seen or seen[-1] < acknowledged:
                await asyncio.sleep(0.05)
        assert seen == list(range(seen[0], acknowledged + 1))
    finally:
        watching.cancel()
        await session.close()
        await store.close()
        etcd.stop()
