"""Nothing is forgotten because the store says so: what one foreign transaction can do to the copies on every disk."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.checkpoint.copy_removal import (
    GRACE_S,
    MOST_WAITING,
    Copy,
    copies_to_remove,
    next_decision_in_s,
)
from gossip_caffe.checkpoint.ending import read_end
from gossip_caffe.checkpoint.withdrawn import REMEMBERED, withdraw, withdrawn
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.etcd.store import CreatedAt, Delete, DeletePrefix, Operation, Put
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.observe.log.events import Event
from gossip_caffe.peer.checkpoints import checkpointing
from tests.fake_clock import FakeClock
from tests.hostile import IDS, tree_digest
from tests.unit.test_checkpointing import RECORDS, SPEC, Cluster, cluster_of, train

KEYS = JobKeys(SPEC.name)
BOGUS = Announcement("00000000999999-zz", "0" * 64, 999_999, 1.0, {"nobody": "127.0.0.1:9"})


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    async def collect(member: Any) -> Any:
        agreed = SimpleNamespace(weights=np.ones(4, np.float32), contributors=(member.peer,))
        return SimpleNamespace(batches=0), agreed

    monkeypatch.setattr(checkpointing, "collect", collect)


def events(peer: Any, kind: Event) -> list[Any]:
    return [event for event in peer.log.events if event["event"] == kind]


async def passes(cluster: Cluster, seconds: float) -> None:
    for _ in range(int(seconds / 10)):
        await cluster.clock.advance(10.0)
        for peer in cluster.peers.values():
            await peer.look()


# ── what somebody else may write ──────────────────────────────────────────────────────────────────────────────────────


def wiped(cluster: Cluster) -> list[Operation]:
    return [DeletePrefix(KEYS.checkpoints)]


def replaced(cluster: Cluster) -> list[Operation]:
    bogus = Put(KEYS.checkpoint(BOGUS.checkpoint), BOGUS.to_json())
    return [*(Delete(key) for key in cluster.etcd.under(KEYS.checkpoints)), bogus]


def replaced_by_what_could_be(cluster: Cluster) -> list[Operation]:
    """A newest checkpoint that fits the job, whose holder sends nothing."""
    name = f"{cluster.epoch * RECORDS:014d}-zz"
    there = Announcement(name, "0" * 64, cluster.epoch * RECORDS, 1.0, {"nobody": "127.0.0.1:9"})
    return [
        *(Delete(key) for key in cluster.etcd.under(KEYS.checkpoints)),
        Put(KEYS.checkpoint(name), there.to_json()),
    ]


def replaced_and_called_taken_back(cluster: Cluster) -> list[Operation]:
    """As a peer writes it, by somebody who knows how."""
    named = [key.removeprefix(KEYS.checkpoints) for key in cluster.etcd.under(KEYS.checkpoints)]
    record = {"checkpoints": dict.fromkeys(named, "a")}
    return [*replaced(cluster), Put(KEYS.withdrawn, json.dumps(record).encode())]


def spoilt(cluster: Cluster) -> list[Operation]:
    return [Put(key, b"\xff") for key in cluster.etcd.under(KEYS.checkpoints)]


def wiped_with_garbage(cluster: Cluster) -> list[Operation]:
    return [DeletePrefix(KEYS.checkpoints), Put(KEYS.withdrawn, b"{")]


FOREIGN = (
    wiped,
    replaced,
    replaced_by_what_could_be,
    replaced_and_called_taken_back,
    spoilt,
    wiped_with_garbage,
)


@pytest.mark.parametrize("foreign", FOREIGN, ids=lambda foreign: str(foreign.__name__))
@pytest.mark.parametrize("trains", [False, True])
async def test_ten_minutes_after_a_foreign_transaction_every_peer_has_its_two_newest_whole_copies_and_says_so(
    tmp_path: Path, foreign: Callable[[Cluster], list[Operation]], trains: bool
) -> None:
    settings = dataclasses.replace(SPEC.settings, keep_checkpoints=4)
    async with cluster_of(tmp_path, "a b c", dataclasses.replace(SPEC, settings=settings)) as cluster:
        await train(cluster, 4)
        for peer in cluster.peers.values():
            await peer.look()
        before = {name: peer.world.folder.ids() for name, peer in cluster.peers.items()}
        assert len(before["a"]) == 4
        cluster.etcd.transact([], foreign(cluster))
        for peer in cluster.peers.values():
            await peer.look()
        for name, peer in cluster.peers.items():
            assert set(before[name]) <= set(peer.world.folder.ids())
        if trains:
            await train(cluster, 2)
        await passes(cluster, GRACE_S + 20.0)
        for name, peer in cluster.peers.items():
            left = peer.world.folder.ids()
            assert set(sorted({*before[name], *left})[-2:]) <= set(left)
            assert set(before[name][-2:]) <= set(left) or (trains and len(left) >= 2)
            for checkpoint in left:
                assert (
                    peer.world.folder.damage(checkpoint, peer.world.folder.manifest(checkpoint).digest) == ""
                )
            said = "\n".join(peer.said)
            if foreign is not replaced_and_called_taken_back:
                assert "no peer took it back" in said or not before[name]
                assert any(checkpoint in said for checkpoint in before[name]) or not before[name]
            for forgot in events(peer, Event.FORGOT):
                assert forgot["checkpoint"] not in forgot["kept"]
                assert float(str(forgot["waited_s"])) >= GRACE_S
        assert len(set(await cluster.names())) > 0, "what vanished is announced again"


async def test_an_etcd_restored_from_an_old_copy_costs_no_peer_its_newest_copies(tmp_path: Path) -> None:
    settings = dataclasses.replace(SPEC.settings, keep_checkpoints=2)
    async with cluster_of(tmp_path, "a b", dataclasses.replace(SPEC, settings=settings)) as cluster:
        await train(cluster, 2)
        old = {key: cluster.etcd.keys[key].value for key in cluster.etcd.under(KEYS.checkpoints)}
        await train(cluster, 3)
        newest = {name: peer.world.folder.ids()[-2:] for name, peer in cluster.peers.items()}
        there = [Delete(key) for key in cluster.etcd.under(KEYS.checkpoints)]
        cluster.etcd.transact([], [*there, Delete(KEYS.withdrawn), *(Put(*entry) for entry in old.items())])
        await passes(cluster, 2 * GRACE_S)
        for name, peer in cluster.peers.items():
            assert set(newest[name]) <= set(peer.world.folder.ids())
            assert "no peer took it back" in "\n".join(peer.said)
        assert newest["a"][-1] in await cluster.names()


async def test_hostile_ids_in_the_store_touch_nothing_outside_of_a_peers_folder(tmp_path: Path) -> None:
    async with cluster_of(tmp_path / "run", "a b") as cluster:
        await train(cluster, 3)
        for name in ("victim", "run/victim", "run/a.victim"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "file").write_text("keep me")
        outside = {path: tree_digest(path) for path in tmp_path.rglob("*victim")}
        inside = {name: set(peer.world.folder.ids()) for name, peer in cluster.peers.items()}
        for hostile in IDS:
            if hostile in {"", "\ud800"}:
                continue
            value = json.loads(BOGUS.to_json()) | {"checkpoint": hostile, "holders": {"b": "b"}}
            cluster.etcd.transact([], [Put(KEYS.checkpoint(hostile), json.dumps(value).encode())])
            record = {"checkpoints": {hostile: "a"}}
            cluster.etcd.transact([], [Put(KEYS.withdrawn, json.dumps(record).encode())])
            cluster.etcd.transact([], [Put(KEYS.finished, json.dumps({"checkpoint": hostile}).encode())])
            for peer in cluster.peers.values():
                await peer.look()
        await passes(cluster, 30.0)
        assert {path: tree_digest(path) for path in outside} == outside
        assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["a", "a.victim", "b", "victim"]
        for name, peer in cluster.peers.items():
            assert set(peer.world.folder.ids()) >= inside[name]
            assert not peer.checkpointing.job_finished.is_set()


async def test_an_announcement_under_the_name_of_a_copy_does_not_replace_it(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, "a b") as cluster:
        await train(cluster, 2)
        a, b = cluster.peers.values()
        newest = (await cluster.names())[-1]
        await b.look()
        before = tree_digest(b.world.folder.path(newest))
        (item,) = (cluster.etcd.keys[KEYS.checkpoint(newest)],)
        value = json.loads(item.value) | {"digest": "0" * 64, "holders": {"nobody": "127.0.0.1:9"}}
        cluster.etcd.transact([], [Put(item.key, json.dumps(value).encode())])
        pulled = len(cluster.pulled)
        for _ in range(3):
            await a.look()
            await b.look()
        assert tree_digest(b.world.folder.path(newest)) == before
        assert len(cluster.pulled) == pulled
        assert "another digest" in "\n".join(b.said)


# ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"{}",
        b'{"checkpoint": 5}',
        b'{"checkpoint": ""}',
        b'{"checkpoint": "nothing"}',
        b'{"checkpoint": "../../x"}',
        "its newest",
    ],
    ids=str,
)
async def test_an_end_that_names_no_checkpoint_of_the_whole_budget_is_not_believed_and_put_right_in_the_end(
    tmp_path: Path, value: bytes | str
) -> None:
    async with cluster_of(tmp_path, "a b") as cluster:
        await train(cluster, 2)
        if isinstance(value, str):
            value = json.dumps({"checkpoint": (await cluster.names())[-1]}).encode()
        cluster.etcd.transact([], [Put(KEYS.finished, value)])
        for _ in range(3):
            for peer in cluster.peers.values():
                await peer.look()
        for peer in cluster.peers.values():
            assert not peer.checkpointing.job_finished.is_set()
            assert len([line for line in peer.said if "the job is not finished" in line]) == 1
        cluster.epoch = SPEC.budget_samples // RECORDS
        for peer in cluster.peers.values():
            peer.progress.finished = True
        for _ in range(2):
            for peer in cluster.peers.values():
                await peer.look()
        assert all(peer.checkpointing.job_finished.is_set() for peer in cluster.peers.values())
        end = await read_end(MemoryStore(cluster.etcd), KEYS, SPEC)
        assert end is not None
        assert end.believed
        (right,) = [peer for peer in cluster.peers.values() if events(peer, Event.PUT_RIGHT)]
        assert right.holds_duty


# ── the decision ──────────────────────────────────────────────────────────────────────────────────────────────────────

NAMES = st.lists(st.integers(0, 40), max_size=30, unique=True)
COPIES = NAMES.flatmap(
    lambda names: st.tuples(
        *(
            st.builds(
                Copy,
                st.just(f"{name:03d}"),
                st.sampled_from([0.0, 1.0, GRACE_S - 0.001, GRACE_S, 1e6]),
                st.sampled_from(["", "p0"]),
            )
            for name in names
        )
    )
)


@given(COPIES, st.sets(st.integers(0, 40)), st.integers(1, 5))
def test_only_copies_that_may_be_removed_are_removed(
    copies: tuple[Copy, ...], whole: set[int], last: int
) -> None:
    newest = [f"{name:03d}" for name in sorted(whole)[-2:]]
    gone = {entry.copy for entry in copies_to_remove(copies, newest, last)}
    assert gone <= set(copies)
    assert not {copy.checkpoint for copy in gone} & set(newest)
    assert all(copy.gone_s >= GRACE_S or copy.withdrawn_by for copy in gone), (
        "nobody took it back, or not long ago"
    )
    left = [copy for copy in copies if copy not in gone]
    waiting = [copy for copy in left if copy.withdrawn_by and copy.checkpoint not in newest]
    assert len(waiting) <= MOST_WAITING
    early = [copy for copy in gone if copy.gone_s < GRACE_S]
    assert not early or len(waiting) == MOST_WAITING
    for copy in early:
        assert all(copy.checkpoint < other.checkpoint for other in waiting if other.gone_s < GRACE_S)
    unexplained = sorted(copy.checkpoint for copy in copies if not copy.withdrawn_by)
    assert set(unexplained[-last:]) <= {copy.checkpoint for copy in left}
    old = [dataclasses.replace(copy, gone_s=1e9) for copy in copies]
    rest = set(old) - {entry.copy for entry in copies_to_remove(old, newest, last)}
    assert len(rest) <= 2 + last, "what a job takes is bounded"


def test_a_look_is_due_when_a_copy_has_waited_long_enough() -> None:
    assert next_decision_in_s([]) == float("inf")
    assert next_decision_in_s([Copy("a", 1.0), Copy("b", 590.0), Copy("c", 700.0)]) == 10.0


async def test_a_withdrawal_names_its_peer_and_is_written_only_while_the_guard_holds(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, "a b") as cluster:
        await train(cluster, 2)
        a, b = cluster.peers.values()
        first, second = await cluster.names()
        store, writer = a.world.store, a.incarnation.writer
        duty = CreatedAt(KEYS.duty("checkpoint"), a.checkpointing.duty.revision)
        assert await withdraw(store, writer, KEYS, "a", [first], [duty])
        assert await cluster.names() == [second]
        assert dict((await withdrawn(store, KEYS)).by)[first] == "a"
        stale = CreatedAt(KEYS.duty("checkpoint"), 1)
        assert not await withdraw(store, b.incarnation.writer, KEYS, "b", [second], [stale])
        assert await cluster.names() == [second]
        many = [f"{number:014d}-x" for number in range(REMEMBERED + 100)]
        assert await withdraw(store, writer, KEYS, "a", many, [])
        by = (await withdrawn(store, KEYS)).by
        assert len(by) == REMEMBERED
        assert list(by)[-1] == many[-1]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b"{}",
        b'{"checkpoints": []}',
        b'{"checkpoints": {"../x": "a"}}',
        b'{"checkpoints": {"x": 5}}',
    ],
)
async def test_an_unreadable_record_of_withdrawals_withdraws_nothing(value: bytes) -> None:
    etcd = MemoryEtcd(FakeClock())
    etcd.transact([], [Put(KEYS.withdrawn, value)])
    noted: list[str] = []
    found = await withdrawn(MemoryStore(etcd), KEYS, lambda key, revision, why: noted.append(key))
    assert not found.by
    assert found.revision > 0
    assert noted == [KEYS.withdrawn]
