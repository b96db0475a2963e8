"""The peers of a job as targets of Prometheus."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from gossip_caffe.clock import SystemClock
from gossip_caffe.errors import NotFound, StoreUnavailable, UsageError
from gossip_caffe.membership.discovery import KEPT_S, Discovery, Place, target_of
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.etcd.store import Delete, Put
from gossip_caffe.membership.jobs import only_job
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import MembersView, PeerRecord
from gossip_caffe.observe.metrics.figures import Figures
from gossip_caffe.observe.metrics.http import HttpServer, Request, Response
from gossip_caffe.observe.metrics.server import MetricsServer
from gossip_caffe.observe.metrics.tally import Tally
from tests.fake_clock import FakeClock

KEYS = JobKeys("digits")
SOCKETS = Path("/s")
HERE = Place("here", SOCKETS, "127.0.0.1:9465")


def record(peer: str, metrics: str = "10.0.0.7:9100", state: str = "training") -> PeerRecord:
    return PeerRecord(peer, "1", "10.0.0.7:1", "here", 1, state, metrics=metrics)


def test_a_target_has_the_labels_that_tell_peers_apart() -> None:
    target = target_of("digits", replace(record("p0"), zone="rack3"), HERE)
    assert target.to_record() == {
        "targets": ["10.0.0.7:9100"],
        "labels": {
            "gossip_caffe_job": "digits",
            "peer": "p0",
            "host": "here",
            "device": "cpu",
            "zone": "rack3",
        },
    }


def test_a_peer_behind_a_socket_is_a_target_at_the_server_that_passes_scrapes_on() -> None:
    target = target_of("digits", record("p0", "unix:/s/peer-1-00000000"), HERE)
    assert (target.address, target.why_not) == ("127.0.0.1:9465", "")
    assert target.labels["__metrics_path__"] == "/peers/p0/metrics"
    assert target.labels["instance"] == "p0"
    bare = target_of("digits", record("p0", "unix:/s/peer-1-00000000"), replace(HERE, passes_on=""))
    assert bare.address == "unix:/s/peer-1-00000000"


@pytest.mark.parametrize(
    ("metrics", "host", "why_not"),
    [
        ("", "here", "it serves no metrics"),
        ("127.0.0.1:9100", "here", ""),
        ("[::1]:9100", "here", ""),
        ("127.0.0.1:9100", "gpu3", "on loopback of gpu3: start it with --metrics-listen HOST:PORT"),
        ("localhost:9100", "gpu3", "on loopback of gpu3"),
        ("10.0.0.7:9100", "gpu3", ""),
        ("unix:/other/peer-1-00000000", "here", "a Unix socket of another cluster"),
    ],
)
def test_a_peer_that_cannot_be_scraped_from_here_is_no_target(metrics: str, host: str, why_not: str) -> None:
    target = target_of("digits", replace(record("p0", metrics), host=host), HERE)
    assert why_not in target.why_not
    assert bool(target.why_not) == bool(why_not)


class Watched:
    """A discovery over a store in memory."""

    def __init__(self, place: Place = HERE) -> None:
        self.clock = FakeClock()
        self.etcd = MemoryEtcd(FakeClock())
        self.store = MemoryStore(self.etcd)
        self.view = MembersView(self.store, KEYS)
        self.said: list[str] = []
        self.discovery = Discovery(self.store, "digits", self.view, place, self.clock, self.said.append)
        self.following = asyncio.create_task(self.view.follow())

    async def put(self, entry: PeerRecord) -> None:
        self.etcd.transact([], [Put(KEYS.peer(entry.peer), entry.to_json())])
        await self.seen(entry.peer, entry)

    async def remove(self, peer: str) -> None:
        self.etcd.transact([], [Delete(KEYS.peer(peer))])
        await self.seen(peer, None)

    async def seen(self, peer: str, entry: PeerRecord | None) -> None:
        async with asyncio.timeout(5):
            while self.view.members.get(peer) != entry or not self.view.known.is_set():
                await asyncio.sleep(0)

    async def peers(self) -> list[str]:
        return [target.peer for target in await self.discovery.targets()]


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    made = Watched()
    yield made
    made.following.cancel()


async def test_a_peer_that_dies_stays_a_target_for_a_while_and_one_that_leaves_does_not(
    watched: Watched,
) -> None:
    for peer in ("dies", "leaves", "lives", "joins"):
        await watched.put(record(peer))
    await watched.put(record("joins", state="joining"))
    await watched.put(record("leaves", state="draining"))
    for peer in ("dies", "leaves", "joins"):
        await watched.remove(peer)
    assert await watched.peers() == ["dies", "lives"]
    await watched.clock.advance(KEPT_S - 1)
    assert await watched.peers() == ["dies", "lives"]
    await watched.clock.advance(2)
    assert await watched.peers() == ["lives"]


async def test_a_peer_that_comes_back_is_a_target_at_its_new_address(watched: Watched) -> None:
    await watched.put(record("p0"))
    await watched.remove("p0")
    await watched.put(record("p0", "10.0.0.8:9100", "joining"))
    (target,) = await watched.discovery.targets()
    assert target.address == "10.0.0.8:9100"


async def test_the_peers_of_a_finished_job_are_not_lost(watched: Watched) -> None:
    await watched.put(record("p0"))
    watched.etcd.transact([], [Put(KEYS.finished, b"{}")])
    await watched.remove("p0")
    assert await watched.peers() == []


async def test_while_the_store_is_away_the_known_targets_stay(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(key: str) -> None:
        raise StoreUnavailable("etcd does not answer")

    await watched.put(record("p0"))
    await watched.put(record("p1"))
    await watched.remove("p1")
    monkeypatch.setattr(watched.store, "get", away)
    assert await watched.peers() == ["p0", "p1"]


async def test_a_peer_that_is_no_target_is_named_once(watched: Watched) -> None:
    await watched.put(record("p0", ""))
    for _ in range(3):
        assert await watched.peers() == []
    assert watched.said == ["p0 cannot be scraped: it serves no metrics"]


async def test_prometheus_gets_json_with_the_address_at_which_it_asked(watched: Watched) -> None:
    request = Request("/targets", {"host": "127.0.0.1:1234"})
    unknown = MembersView(watched.store, KEYS)
    early = await Discovery(watched.store, "digits", unknown, HERE, watched.clock, print).answer(request)
    assert early.status == 503, "nothing is known yet: Prometheus keeps the targets that it has"
    await watched.put(record("p0", "unix:/s/peer-1-00000000"))
    answer = await watched.discovery.answer(request)
    assert answer.content_type == "application/json"
    ((group),) = json.loads(answer.body)
    assert group["targets"] == ["127.0.0.1:1234"]


@pytest.mark.parametrize("host", ["", "evil,host", "unix:/x", "a:b:c:99999999", "\x00"])
async def test_a_host_that_is_no_address_is_not_repeated(watched: Watched, host: str) -> None:
    await watched.put(record("p0", "unix:/s/peer-1-00000000"))
    answer = await watched.discovery.answer(Request("/targets", {"host": host}))
    ((group),) = json.loads(answer.body)
    assert group["targets"] == ["unix:/s/peer-1-00000000"]


async def test_a_scrape_is_passed_on_to_the_socket_of_a_member_and_to_nothing_else(tmp_path: Path) -> None:
    watched = Watched(Place("here", tmp_path))
    path = tmp_path / "peer-1-00000000"
    server = MetricsServer(Tally(), SystemClock(), tmp_path)
    server.serve(lambda: Figures(job="digits", version="1", device="cpu", state="training", budget_samples=1))
    await server.start(f"unix:{path}")
    try:
        await watched.put(record("p0", f"unix:{path}"))
        await watched.put(record("p1", "unix:/other/peer-1-00000000"))
        await watched.put(record("p2"))

        async def passed_on(peer: str) -> Response:
            return await watched.discovery.answer(Request(f"/peers/{peer}/metrics", {"accept": "a\r\nb"}))

        scraped = await passed_on("p0")
        assert scraped.status == 200
        assert b"gossip_caffe_build_info" in scraped.body
        for stranger in ("p1", "p2", "p3", "../p0", "", "p0/x"):
            assert (await passed_on(stranger)).status == 404
        await server.stop()
        assert (await passed_on("p0")).status == 502
    finally:
        await server.stop()
        watched.following.cancel()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: x\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Type: x\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 999 OK\r\nContent-Type: x\r\nContent-Length: 0\r\n\r\n",
        b"A" * (1 << 17),
    ],
    ids=lambda said: repr(said[:50]),
)
async def test_a_socket_that_does_not_answer_as_a_peer_is_a_bad_gateway(tmp_path: Path, said: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        writer.close()

    watched = Watched(Place("here", tmp_path))
    path = tmp_path / "peer-1-00000000"
    server = await asyncio.start_unix_server(serve, path)
    await watched.put(record("p0", f"unix:{path}"))
    answer = await watched.discovery.answer(Request("/peers/p0/metrics"))
    assert answer.status == 502
    watched.following.cancel()
    server.close()


async def test_any_other_page_is_none(watched: Watched) -> None:
    assert (await watched.discovery.answer(Request("/else"))).status == 404
    assert (await watched.discovery.answer(Request("/healthz"))).status == 200
    server = HttpServer(watched.discovery.answer, SystemClock(), "--listen")
    assert await server.start("127.0.0.1:0") > 0
    await server.stop()


async def test_the_only_job_is_found_and_several_must_be_named() -> None:
    store = MemoryStore(MemoryEtcd(FakeClock()))
    with pytest.raises(NotFound, match="there is no job"):
        await only_job(store)
    await store.transact([], [Put(JobKeys("a").spec, b"{}")])
    assert await only_job(store) == "a"
    await store.transact([], [Put(JobKeys("b").spec, b"{}")])
    with pytest.raises(UsageError, match=r"several jobs in etcd \(a, b\); give --job NAME"):
        await only_job(store)
