"""One peer's part in checkpoints: what it makes, what it keeps, and what it does when its disk takes nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from gossip_caffe.checkpoint.announce import announced
from gossip_caffe.checkpoint.copy_removal import GRACE_S
from gossip_caffe.checkpoint.duty import CHECKPOINTS
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.url_store import remote_store_of
from gossip_caffe.checkpoint.withdrawn import withdraw
from gossip_caffe.errors import EnvironmentProblem, ExchangeFailed, NotFound, WritesRefused
from gossip_caffe.job.spec.spec import DataSpec, JobSettings, JobSpec
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.etcd.store import Delete, Put
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.observe.log.events import Event, MemoryLog
from gossip_caffe.peer.checkpoints import checkpointing
from gossip_caffe.peer.checkpoints.checkpointing import Checkpointing
from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.peer.sharing.pairwise import pairwise
from gossip_caffe.solver.engines.layout import WeightLayout
from tests.bare_job import bare_job
from tests.fake_clock import FakeClock

LAYOUT = WeightLayout.of([("ip", 0, (4,))])
RECORDS = 100
SPEC = bare_job(
    budget_samples=100 * RECORDS,
    data=DataSpec((), RECORDS, 10, 10),
    settings=JobSettings(keep_checkpoints=2, checkpoint_every_samples=RECORDS),
    creation="first",
)


class Cluster:
    """Peers of one job that see each other at once, over a store in memory."""

    def __init__(self, folder: Path, spec: JobSpec = SPEC) -> None:
        self.clock = FakeClock()
        self.etcd = MemoryEtcd(self.clock)
        self.spec = spec
        self.peers: dict[str, Peer] = {}
        self.pulled: list[str] = []
        self.epoch = 0
        self._folder = folder

    async def start(self, name: str) -> Peer:
        self.peers[name] = peer = Peer(self, name, self._folder / name)
        await peer.begin()
        return peer

    async def names(self) -> list[str]:
        """What is announced, oldest first."""
        listed = await announced(MemoryStore(self.etcd), next(iter(self.peers.values())).world.keys)
        return [entry.checkpoint for entry in reversed(listed)]

    async def pull(
        self, address: str, job: str, checkpoint: str, file: str, offset: int
    ) -> AsyncIterator[bytes]:
        if address not in self.peers:
            raise NotFound(f"nobody is at {address}")
        self.pulled.append(file)
        _, pieces = self.peers[address].world.folder.open_file(checkpoint, file, offset)
        async for piece in pieces:
            yield piece


class Peer:
    """One of them; it trains nothing, and looks when it is told to."""

    def __init__(self, cluster: Cluster, name: str, folder: Path) -> None:
        nowhere = cast(Any, None)
        self.cluster, self.peer, self.address = cluster, name, name
        self.log = MemoryLog()
        self.said: list[str] = []
        self.world = PeerDependencies(
            spec=cluster.spec,
            store=MemoryStore(cluster.etcd),
            transport=nowhere,
            serve=nowhere,
            folder=CheckpointFolder(folder),
            files=cluster,
            clock=cluster.clock,
            rng=random.Random(name),
            log=self.log,
            say=self.said.append,
            strategy=pairwise,
            remote_store=remote_store_of(cluster.spec),
        )

        async def nothing() -> None:
            return None

        async def states() -> dict[int, Any]:
            return {}

        stream = SimpleNamespace(unsettled=[], untrained=[])
        self.trainer: Any = SimpleNamespace(layout=LAYOUT, history=nothing, stream=stream)
        self.progress: Any = SimpleNamespace(samples=0, finished=False)
        self._ledger = SimpleNamespace(states=states, folded=0)
        self.session = LeaseSession(self.world.store, cluster.clock, 600.0)
        self.durable = lambda batches, via: None

    async def begin(self) -> None:
        await self.session.start()
        writer = FencedWriter(
            self.world.store, self.session, self.world.keys.fence(self.peer), self.cluster.clock
        )
        await writer.open()
        self.incarnation: Any = SimpleNamespace(session=self.session, writer=writer, ledger=self._ledger)
        self.checkpointing = Checkpointing(cast(Any, self))

    @property
    def training_peers(self) -> dict[str, Any]:
        return dict.fromkeys(self.cluster.peers)

    def partners(self) -> dict[str, str]:
        return {name: name for name in self.cluster.peers if name != self.peer}

    @property
    def holds_duty(self) -> bool:
        return self.checkpointing.duty.ours

    async def look(self) -> None:
        """As ``run`` does, once."""
        self.progress.samples = self.cluster.epoch * RECORDS
        self._ledger.folded = self.cluster.epoch
        folded = Put(self.world.keys.folded, json.dumps({"epochs": self.cluster.epoch}).encode())
        if not self.cluster.etcd.refuses:
            self.cluster.etcd.transact([], [folded])
        await self.checkpointing.look()

    def refused(self) -> list[Any]:
        return [event for event in self.log.events if event["event"] == Event.CHECKPOINT_REFUSED]


@asynccontextmanager
async def cluster_of(folder: Path, names: str, spec: JobSpec = SPEC) -> AsyncIterator[Cluster]:
    cluster = Cluster(folder, spec)
    for name in names.split():
        await cluster.start(name)
    try:
        yield cluster
    finally:
        for peer in cluster.peers.values():
            await peer.session.close()


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    async def collect(member: Any) -> Any:
        return SimpleNamespace(batches=0), SimpleNamespace(
            weights=np.ones(4, np.float32), contributors=(member.peer,)
        )

    monkeypatch.setattr(checkpointing, "collect", collect)


def progress_of(names: list[str]) -> list[int]:
    return [int(name.partition("-")[0]) for name in names]


async def train(cluster: Cluster, epochs: int) -> None:
    """Epoch by epoch, after each of which every peer looks."""
    for _ in range(epochs):
        cluster.epoch += 1
        for peer in cluster.peers.values():
            await peer.look()


async def wait_out_the_grace(cluster: Cluster) -> None:
    """All look before and after the ten minutes in which what was taken back stays on a disk."""
    for _ in range(2):
        for peer in cluster.peers.values():
            await peer.look()
        for _ in range(int(GRACE_S / 10) + 1):
            await cluster.clock.advance(10.0)
    for peer in cluster.peers.values():
        await peer.look()


async def test_as_many_are_kept_as_the_job_says_everywhere(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, "a b") as cluster:
        await train(cluster, 5)
        assert progress_of(await cluster.names()) == [400, 500]
        assert progress_of(cluster.peers["a"].world.folder.ids()) == [100, 200, 300, 400, 500]
        await wait_out_the_grace(cluster)
        assert progress_of(await cluster.names()) == [400, 500]
        for peer in cluster.peers.values():
            assert progress_of(peer.world.folder.ids()) == [400, 500]


@pytest.mark.parametrize("creation", ["first", "another"])
async def test_what_was_just_announced_stays_whatever_lay_in_the_folder_before(
    tmp_path: Path, creation: str
) -> None:
    """Higher names: the job went back by several checkpoints, or another job of this folder had come further.

    Of this job the newest two are there for good, although nobody announces them.
    """
    async with cluster_of(tmp_path, "a", dataclasses.replace(SPEC, creation=creation)) as before:
        before.epoch = 50
        await train(before, 4)
        (peer,) = before.peers.values()
        earlier = peer.world.folder.ids()
    assert len(earlier) >= 2
    async with cluster_of(tmp_path, "a") as cluster:
        await train(cluster, 3)
        (peer,) = cluster.peers.values()
        await wait_out_the_grace(cluster)
        assert progress_of(await cluster.names()) == [200, 300]
        assert set(await cluster.names()) <= set(peer.world.folder.ids())
        left = [name for name in peer.world.folder.ids() if name in earlier]
        assert left == (earlier if creation == "another" else earlier[-2:])


async def test_withdrawn_copies_go_from_every_disk_ten_minutes_after_that_is_seen(tmp_path: Path) -> None:
    settings = dataclasses.replace(SPEC.settings, keep_checkpoints=4)
    async with cluster_of(tmp_path, "a b", dataclasses.replace(SPEC, settings=settings)) as cluster:
        await train(cluster, 4)
        for peer in cluster.peers.values():
            await peer.look()
        a, b = cluster.peers.values()
        withdrawn = (await cluster.names())[1]
        assert withdrawn in b.world.folder.ids()
        writer = a.incarnation.writer
        assert await withdraw(a.world.store, writer, a.world.keys, "a", [withdrawn], [])
        await b.look()
        await cluster.clock.advance(GRACE_S - 1.0)
        await b.look()
        assert withdrawn in b.world.folder.ids()
        await wait_out_the_grace(cluster)
        for peer in (a, b):
            assert withdrawn not in peer.world.folder.ids()
            assert set(await cluster.names()) <= set(peer.world.folder.ids())
            (forgot,) = [event for event in peer.log.events if event["event"] == Event.FORGOT]
            assert (forgot["checkpoint"], forgot["by"]) == (withdrawn, "a")
            assert float(str(forgot["waited_s"])) >= GRACE_S
        assert not b.said


def fill(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Its disk takes nothing from now on; returns what it will have tried."""
    tried: list[str] = []

    def full(unfinished: Path, checkpoint: str) -> None:
        tried.append(checkpoint)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(peer.world.folder, "finish", full)
    return tried


async def pass_by(cluster: Cluster, seconds: float) -> None:
    """All look every half second."""
    for _ in range(int(2 * seconds)):
        for peer in cluster.peers.values():
            try:
                await peer.look()
            except EnvironmentProblem:
                peer.checkpointing.back_off()
        await cluster.clock.advance(0.5)


async def test_a_maker_whose_disk_is_full_leaves_the_duty_to_another_and_the_job_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster_of(tmp_path, "a b c") as cluster:
        await train(cluster, 1)
        a, b, c = cluster.peers.values()
        assert a.holds_duty
        tried = fill(a, monkeypatch)
        cluster.epoch += 1
        await pass_by(cluster, 3.0)
        assert len(tried) == 1
        assert progress_of(await cluster.names()) == [100, 200]
        assert not a.holds_duty
        assert b.holds_duty or c.holds_duty
        cluster.epoch = 100
        for peer in (a, b, c):
            peer.progress.finished = True
        await pass_by(cluster, 3.0)
        assert all(peer.checkpointing.job_finished.is_set() for peer in (a, b, c))


async def test_a_maker_whose_weights_are_not_finite_leaves_the_duty_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster_of(tmp_path, "a b") as cluster:
        a, b = cluster.peers.values()
        collect = checkpointing.collect

        async def fails_for_a(member: Any) -> Any:
            if member is a:
                raise ExchangeFailed("the weights of a hold NaN or Inf")
            return await collect(member)

        monkeypatch.setattr(checkpointing, "collect", fails_for_a)
        cluster.epoch = 1
        for peer in (a, b):
            peer.progress.samples, peer._ledger.folded = RECORDS, 1
        running = [asyncio.create_task(peer.checkpointing.run()) for peer in (a, b)]
        async with asyncio.timeout(60.0):
            while not await cluster.names():
                await cluster.clock.advance(0.5)
                await asyncio.sleep(0.001)  # a thread writes it
        assert b.holds_duty
        assert progress_of(await cluster.names()) == [100]
        assert a.said == ["a: the weights of a hold NaN or Inf"]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def test_a_copier_whose_disk_is_full_is_passed_over_and_does_not_pull_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster_of(tmp_path, "b a c") as cluster:
        b, a, c = cluster.peers.values()
        tried = fill(a, monkeypatch)
        for _ in range(12):  # a checkpoint every five seconds: newer ones come before the next one's turn
            cluster.epoch += 1
            await pass_by(cluster, 5.0)
        assert b.holds_duty
        assert len(c.world.folder.ids()) > 0
        assert 1 <= len(tried) <= 3
        (newest,) = (await announced(b.world.store, b.world.keys))[:1]
        assert set(newest.holders) in ({"b"}, {"b", "c"})


async def test_who_is_alone_with_a_full_disk_tries_again_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster_of(tmp_path, "a") as cluster:
        (a,) = cluster.peers.values()
        with monkeypatch.context() as full:
            tried = fill(a, full)
            cluster.epoch += 1
            await pass_by(cluster, 20.0)
            assert 5 <= len(tried) <= 11
        await pass_by(cluster, 3.0)
        assert progress_of(await cluster.names()) == [100]


async def test_the_jobs_store_has_what_is_announced_and_what_another_creation_of_the_job_left_there_stays(
    tmp_path: Path,
) -> None:
    settings = dataclasses.replace(SPEC.settings, checkpoint_store=f"file://{tmp_path}/store")
    job = dataclasses.replace(SPEC, settings=settings)
    for creation in ("first", "second"):
        spec = dataclasses.replace(job, creation=creation)
        async with cluster_of(tmp_path / creation, "a", spec) as cluster:
            await train(cluster, 4)
            await wait_out_the_grace(cluster)
            await train(cluster, 1)
            there = [path.name for path in (tmp_path / "store" / f"job-{spec.identity}").iterdir()]
            # The one that was taken back just now waits.
            assert sorted(there)[-2:] == await cluster.names()
            assert len(there) == 3
    assert len(list((tmp_path / "store").glob("job-*/*"))) == 6


async def test_a_maker_that_was_frozen_for_long_removes_nothing_newer_from_the_jobs_store(
    tmp_path: Path,
) -> None:
    settings = dataclasses.replace(SPEC.settings, checkpoint_store=f"file://{tmp_path}/store")
    async with cluster_of(tmp_path, "a b", dataclasses.replace(SPEC, settings=settings)) as cluster:
        await train(cluster, 2)
        a, b = cluster.peers.values()
        assert a.holds_duty
        (mine,) = (name for name in await cluster.names() if int(name.partition("-")[0]) == 200)
        await a.world.store.transact([], [Delete(a.world.keys.duty(CHECKPOINTS))])
        for _ in range(3):
            cluster.epoch += 1
            await b.look()
        assert b.holds_duty
        await a.checkpointing.keep_in_remote_store(mine)
        await wait_out_the_grace(cluster)
        await a.checkpointing.keep_in_remote_store(mine)
        there = {path.name for path in (tmp_path / "store").glob("job-*/*")}
        assert there == set(await cluster.names())


async def test_while_writes_are_refused_no_checkpoint_is_made_again_and_again(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, "a") as cluster:
        await train(cluster, 1)
        (peer,) = cluster.peers.values()
        had = peer.world.folder.ids()
        cluster.etcd.refuses = "etcdserver: too many requests"
        with pytest.raises(WritesRefused):
            await train(cluster, 1)
        made = peer.world.folder.ids()
        assert len(made) <= len(had) + 1
        for _ in range(5):
            await train(cluster, 1)
            assert peer.world.folder.ids() == made
        cluster.etcd.refuses = ""
        await peer.incarnation.writer.transact([], [])
        await train(cluster, 1)
        assert progress_of(await cluster.names())[-1] == cluster.epoch * RECORDS


async def test_a_checkpoint_that_fails_on_its_way_keeps_no_momentum_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []

    async def history() -> Any:
        return SimpleNamespace(close=lambda: closed.append(True))

    async def unreachable(_: object) -> None:
        raise ExchangeFailed("nobody answers")

    async with cluster_of(tmp_path, "a") as cluster:
        (a,) = cluster.peers.values()
        monkeypatch.setattr(a.trainer, "history", history)
        monkeypatch.setattr("gossip_caffe.peer.checkpoints.checkpointing.collect", unreachable)
        with pytest.raises(ExchangeFailed):
            await a.checkpointing.make("a test")
    assert closed == [True]
