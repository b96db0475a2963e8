"""What the store says is data: ids, names, addresses, URLs and settings are checked when they are read."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.addresses import is_address, split_address
from gossip_caffe.checkpoint.announce import Announcement, announced
from gossip_caffe.checkpoint.expected import Expected
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.formats.caffemodel import write_caffemodel, written_bytes
from gossip_caffe.checkpoint.formats.digest import digest_of
from gossip_caffe.checkpoint.manifest import MANIFEST, MODEL, MOST_BYTES, STATE, FileEntry, Manifest
from gossip_caffe.checkpoint.pull import pull
from gossip_caffe.checkpoint.url_store import UrlStore
from gossip_caffe.errors import CheckpointRefused, NotFound, UsageError
from gossip_caffe.job.spec.spec import JobSpec, with_overrides
from gossip_caffe.job.spec.store_url import checked_store_url
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.etcd.store import Put
from gossip_caffe.membership.jobs import list_jobs, load_job
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import MembersView, PeerRecord, list_members
from gossip_caffe.observe.log.events import Event, MemoryLog
from gossip_caffe.observe.log.ignored import MOST_LINES, Ignored
from gossip_caffe.plain import is_plain, shown
from gossip_caffe.solver.engines.layout import WeightLayout
from tests.bare_job import bare_job
from tests.fake_clock import FakeClock
from tests.hostile import ADDRESSES, IDS, STORE_URLS, tree_digest

KEYS = JobKeys("job")
LAYOUT = WeightLayout.of([("ip", 0, (10, 16)), ("ip", 1, (10,))])
WEIGHTS = np.ones(LAYOUT.size, np.float32)
SPEC = bare_job(creation="once")
EXPECTED = Expected.of(SPEC, LAYOUT.fingerprint)
ID = "00000000000007-p0-1a2b"
RECORD = PeerRecord("p0", "1f", "here:1", "here", 1, "training")


def manifest_of(**differs: Any) -> Manifest:
    fields: dict[str, Any] = {
        "checkpoint": ID,
        "job": SPEC.name,
        "job_fingerprint": SPEC.fingerprint,
        "layout": LAYOUT.entries,
        "progress_samples": 7,
        "folded": 0,
        "done": ((0, ((0, 1),)),),
        "maker": "p0",
        "contributors": ("p0",),
        "made_at": 1.5,
        "job_identity": SPEC.identity,
    }
    return Manifest(**{**fields, **differs})


def announcement_of(checkpoint: str = ID, **differs: Any) -> bytes:
    whole = json.loads(Announcement(checkpoint, "ab", 7, 1.5, {"p0": "here:1"}).to_json())
    return json.dumps({**whole, **differs}).encode()


def test_there_are_fifty_hostile_ids() -> None:
    assert len(set(IDS)) >= 50


# ── names and addresses ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("hostile", IDS, ids=ascii)
def test_no_hostile_id_is_a_name(hostile: str) -> None:
    assert not is_plain(hostile)
    with pytest.raises(ValueError, match=r"no checkpoint.s id|is a str"):
        Announcement.from_json(announcement_of(hostile))


@given(st.text(max_size=140))
def test_a_plain_name_stays_in_its_folder(name: str) -> None:
    if is_plain(name):
        assert Path("root", name).resolve().parent == Path("root").resolve()
        assert name.isascii()
        assert not name.startswith((".", "-"))
        assert len(f".unfinished-{name}".encode()) <= 255


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_what_is_shown_of_a_name_can_do_nothing_to_a_terminal(name: str | bytes) -> None:
    assert shown(name).removesuffix("…").isascii()
    assert shown(name).isprintable()
    assert len(shown(name)) < 1000


@pytest.mark.parametrize("hostile", ADDRESSES, ids=ascii)
def test_an_address_is_a_host_and_a_port_and_no_target_of_grpcs(hostile: str) -> None:
    assert not is_address(hostile)
    with pytest.raises(ValueError, match=r"HOST:PORT|is a"):
        PeerRecord.from_json(dataclasses.replace(RECORD, address=hostile).to_json())
    if hostile:  # no address of metrics is one that says that there are none
        with pytest.raises(ValueError, match="no PeerRecord"):
            PeerRecord.from_json(dataclasses.replace(RECORD, metrics=hostile).to_json())
    with pytest.raises(ValueError, match="a holder is"):
        Announcement.from_json(announcement_of(holders={"p0": hostile}))


@pytest.mark.parametrize("hostile", [entry for entry in ADDRESSES if not entry.endswith(":0")], ids=ascii)
def test_what_is_no_address_is_refused_where_it_is_given_too(hostile: str) -> None:
    with pytest.raises(UsageError, match="is no HOST:PORT"):
        split_address(hostile, "--listen")


@pytest.mark.parametrize(
    "address", ["127.0.0.1:7100", "gpu3.example:1", "[::1]:7100", "[fe80::1%eth0]:65535", "my_host:80", "a:1"]
)
def test_real_addresses_are_taken(address: str) -> None:
    assert is_address(address)
    assert split_address(address, "--listen")[1] > 0
    assert PeerRecord.from_json(dataclasses.replace(RECORD, address=address).to_json()).address == address


# ── records ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "differs",
    [
        {"digest": ""},
        {"digest": "../x"},
        {"progress_samples": -1},
        {"progress_samples": 1 << 63},
        {"made_at": float("nan")},
        {"made_at": 1e300},
        {"made_at": -1.0},
        {"score": float("inf")},
        {"scored_samples": -2},
        {"holders": {"../p0": "here:1"}},
        {"holders": {"p0": "here:1", "\x1b[2J": "here:1"}},
        {"holders": {f"p{number}": "here:1" for number in range(20_000)}},
    ],
    ids=lambda differs: str(differs)[:40],
)
def test_an_announcement_that_cannot_be_one_is_refused(differs: dict[str, Any]) -> None:
    Announcement.from_json(announcement_of())
    with pytest.raises(ValueError, match="nnouncement"):
        Announcement.from_json(announcement_of(**differs))


@pytest.mark.parametrize(
    "differs",
    [
        {"peer": "../p0"},
        {"peer": "P0"},
        {"weight": -1.0},
        {"weight": float("nan")},
        {"weight": 1e300},
        {"pid": -1},
        {"device_memory_bytes": -1},
        {"state": "training\x1b[2J"},
        {"zone": "z" * 300},
        {"host": "h\n"},
        {"version": "\u202e"},
        {"host": "h" * 9000},
    ],
    ids=lambda differs: str(differs)[:40],
)
def test_a_record_that_cannot_be_one_is_refused(differs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"record|Record"):
        PeerRecord.from_json(json.dumps({**json.loads(RECORD.to_json()), **differs}).encode())


async def test_only_what_hangs_on_the_lease_that_it_names_is_a_member_and_the_rest_is_said_once() -> None:
    server, log = MemoryEtcd(FakeClock()), MemoryLog()
    said: list[str] = []
    view = MembersView(MemoryStore(server), KEYS, Ignored(said.append, log, FakeClock()).note)
    lease = server.grant(60.0).id
    mine = dataclasses.replace(RECORD, incarnation=f"{lease:x}")

    def put(key: str, record: PeerRecord | bytes, lease: int) -> None:
        value = record if isinstance(record, bytes) else record.to_json()
        server.transact([], [Put(KEYS.peer(key), value, lease)])

    put("p0", mine, lease)
    put("p1", dataclasses.replace(mine, peer="p1"), 0)  # on no lease: it would never go
    put("p2", dataclasses.replace(mine, peer="p2", incarnation="1"), lease)  # names another
    put("p3", dataclasses.replace(mine, peer="p0"), lease)  # another's
    put("p4", b"\xff", lease)
    for number in range(100):  # a hundred on the lease of another
        put(f"dead{number}", dataclasses.replace(mine, peer=f"dead{number}"), lease)
    following = view.follow()
    try:
        task = asyncio.ensure_future(following)
        await view.known.wait()
        assert list(view.members) == ["p0"]
        put("late", dataclasses.replace(mine, peer="late"), lease)
        put("p0", dataclasses.replace(mine, weight=2.0), lease)
        async with asyncio.timeout(5):
            while view.members["p0"].weight != 2.0:
                await asyncio.sleep(0)
        assert list(view.members) == ["p0"]
    finally:
        task.cancel()
    assert [event["event"] for event in log.events] == [Event.IGNORED.value] * MOST_LINES
    assert len(said) == MOST_LINES + 1
    assert "(revision " in said[0]
    assert all(line.isprintable() and line.count("\n") == 0 for line in said)
    assert [record.peer for record in await list_members(MemoryStore(server), KEYS)] == ["p0"]


async def test_what_is_no_announcement_is_left_out_with_one_line_for_each_revision() -> None:
    server = MemoryEtcd(FakeClock())
    said: list[str] = []
    note = Ignored(said.append, MemoryLog(), FakeClock()).note
    store = MemoryStore(server)
    server.transact([], [Put(KEYS.checkpoint(ID), announcement_of())])
    server.transact([], [Put(KEYS.checkpoint("x/../../y"), announcement_of("x/../../y"))])
    server.transact([], [Put(KEYS.checkpoint("other"), announcement_of())])
    for _ in range(3):
        assert [entry.checkpoint for entry in await announced(store, KEYS, note)] == [ID]
    assert len(said) == 2
    server.transact([], [Put(KEYS.checkpoint("other"), announcement_of())])
    await announced(store, KEYS, note)
    assert len(said) == 3


# ── folders ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("hostile", [entry for entry in IDS if entry != "\ud800"], ids=ascii)
def test_a_hostile_id_touches_nothing_by_whatever_way_it_comes(tmp_path: Path, hostile: str) -> None:
    for name in ("victim", "root/victim", "root/p0/victim", "root/p0/a"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / MANIFEST).write_bytes(b"keep me")
    folder = CheckpointFolder(tmp_path / "root" / "p0")
    folder.write(manifest_of(), WEIGHTS)
    digest = digest_of(b"keep me")
    before = tree_digest(tmp_path)
    for touch in (folder.unfinished, folder.remove, folder.manifest, folder.flush):
        with pytest.raises((NotFound, CheckpointRefused)):
            touch(hostile)
    with pytest.raises(NotFound):
        folder.finish(tmp_path / "victim", hostile)
    with pytest.raises(NotFound):
        folder.write(manifest_of(checkpoint=hostile), WEIGHTS)
    with pytest.raises(NotFound):
        folder.open_file(hostile, MANIFEST, 0)
    with pytest.raises(NotFound):
        folder.open_file(ID, hostile, 0)
    assert not folder.adopt(hostile, digest)
    assert tree_digest(tmp_path) == before


def test_an_adopted_copy_is_only_what_its_manifest_lists(tmp_path: Path) -> None:
    theirs = CheckpointFolder(tmp_path / "p1")
    manifest = theirs.write(manifest_of(), WEIGHTS)
    (theirs.path(ID) / "planted.py").write_text("raise SystemExit")
    mine = CheckpointFolder(tmp_path / "p0")
    assert not mine.adopt(ID, manifest.digest, lambda found: "of another job")
    assert mine.adopt(ID, manifest.digest, EXPECTED.objection)
    assert sorted(path.name for path in mine.path(ID).iterdir()) == [MANIFEST, MODEL]


# ── manifests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Holder:
    """Sends a manifest, and notes what else it is asked for."""

    def __init__(self, manifest: bytes) -> None:
        self.manifest = manifest
        self.asked: list[str] = []
        self.sent = 0

    async def pull(
        self, address: str, job: str, checkpoint: str, file: str, offset: int
    ) -> AsyncIterator[bytes]:
        self.asked.append(file)
        for first in range(0, len(self.manifest), 1 << 20):
            self.sent += 1 << 20
            yield self.manifest[first : first + (1 << 20)]


def files_of(*, model: int = written_bytes(LAYOUT), state: int | None = None) -> tuple[FileEntry, ...]:
    entries = [FileEntry(MODEL, model, "00")]
    return tuple(entries if state is None else [*entries, FileEntry(STATE, state, "00")])


WRONG: dict[str, dict[str, Any]] = {
    "another job": {"job": "other"},
    "another fingerprint": {"job_fingerprint": "f" * 64},
    "another creation": {"job_identity": "0" * 12},
    "another net": {"layout": (("ip", 0, (16, 10)), ("ip", 1, (10,)))},
    "a larger net": {"layout": (("ip", 0, (50_000, 50_000)),), "files": files_of(model=10**10)},
    "10 GB": {"files": files_of(model=10**10)},
    "10 GB of state": {"files": files_of(state=10**10)},
    "a byte more": {"files": files_of(model=written_bytes(LAYOUT) + 1)},
    "no model": {"files": ()},
    "another id": {"checkpoint": "00000000000007-p0-ffff"},
    "another progress": {"progress_samples": 8},
    "more than the budget": {"progress_samples": SPEC.budget_samples + 1},
    "more epochs than there are": {"folded": 3},
    "an epoch that is none": {"done": ((2, ((0, 1),)),)},
    "chunks that are none": {"done": ((0, ((0, 1 << 60),)),)},
    "chunks without order": {"done": ((0, ((3, 5), (1, 2))),)},
    "chunks backwards": {"done": ((0, ((5, 3),)),)},
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_of_a_manifest_that_cannot_be_this_jobs_no_byte_of_a_file_is_fetched(
    tmp_path: Path, wrong: str
) -> None:
    content = manifest_of(**{"files": files_of(), **WRONG[wrong]}).to_json()
    await refused(tmp_path, content)


@pytest.mark.parametrize(
    "name",
    ["planted_mod.py", "../victim", MANIFEST, "model.caffemodel.exe", "MODEL.CAFFEMODEL", "__init__.py"],
)
async def test_a_file_name_outside_the_closed_set_is_refused_before_it_is_asked_for(
    tmp_path: Path, name: str
) -> None:
    content = manifest_of(files=(*files_of(), FileEntry(name, 1, "00"))).to_json()
    await refused(tmp_path, content)


async def test_a_manifest_that_lists_a_file_twice_is_refused(tmp_path: Path) -> None:
    await refused(tmp_path, manifest_of(files=files_of() * 2).to_json())


async def test_a_manifest_is_not_read_to_an_end_that_does_not_come(tmp_path: Path) -> None:
    holder = await refused(tmp_path, b" " * (4 * MOST_BYTES))
    assert holder.sent <= MOST_BYTES + (2 << 20)


async def refused(tmp_path: Path, content: bytes) -> Holder:
    holder = Holder(content)
    beyond = b'"progress_samples": 201' in content
    announcement = Announcement(ID, digest_of(content), 201 if beyond else 7, 1.5, {"p1": "there:1"})
    folder = CheckpointFolder(tmp_path / "p0")
    with pytest.raises(CheckpointRefused):
        await pull(
            announcement,
            job="job",
            client=holder,
            folder=folder,
            rng=random.Random(1),
            expected=EXPECTED,
        )
    assert set(holder.asked) == {MANIFEST}
    assert list(folder.root.iterdir()) == []
    return holder


def test_what_a_peer_of_this_job_makes_is_what_is_expected(tmp_path: Path) -> None:
    manifest = CheckpointFolder(tmp_path).write(manifest_of(), WEIGHTS)
    assert EXPECTED.objection(manifest) == ""
    assert Expected.of(SPEC).objection(manifest) == ""


SHAPES = st.lists(st.integers(1, 5), max_size=4).map(tuple)


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "conv1"]), SHAPES), min_size=1, max_size=6),
)
def test_the_size_of_a_model_follows_from_its_layout(blobs: list[tuple[str, tuple[int, ...]]]) -> None:
    counts: dict[str, int] = {}
    entries = []
    for layer, shape in blobs:
        counts[layer] = counts.get(layer, -1) + 1
        entries.append((layer, counts[layer], shape))
    layout = WeightLayout.of(entries)
    file = io.BytesIO()
    write_caffemodel(file, layout, np.zeros(layout.size, np.float32))
    assert len(file.getvalue()) == written_bytes(layout)


# ── jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("url", STORE_URLS, ids=ascii)
def test_a_store_that_is_no_place_or_more_than_one_is_refused_given_or_read(url: str) -> None:
    with pytest.raises(UsageError, match="checkpoint_store") as given_error:
        with_overrides(SPEC.settings, {"checkpoint_store": url})
    assert "SECRET" not in str(given_error.value)
    record = json.loads(SPEC.to_json())
    record["settings"]["checkpoint_store"] = url
    with pytest.raises(UsageError, match="checkpoint_store") as read_error:
        JobSpec.from_json(json.dumps(record).encode())
    assert "SECRET" not in str(read_error.value)


@pytest.mark.parametrize(
    "url", ["", "file:///data/x", "s3://bucket/x", "gs://bucket", "memory://x", "hdfs://name:8020/x"]
)
def test_a_store_that_is_a_place_is_taken(url: str) -> None:
    assert checked_store_url(url) == url


WRONG_FIELDS: dict[str, tuple[str, Any]] = {
    "an unknown codec": ("settings.codec", "gzip"),
    "a lease of no time": ("settings.lease_ttl_s", 0.0),
    "a lease for ever": ("settings.lease_ttl_s", 1e9),
    "a lease of NaN": ("settings.lease_ttl_s", float("nan")),
    "no prefetch": ("settings.prefetch_batches", 0),
    "an unknown strategy": ("settings.partners", "mine"),
    "keep nothing": ("settings.keep_checkpoints", 0),
    "no records": ("data.records", 0),
    "no batch": ("data.batch_records", 0),
    "too many chunks": ("data.records", 1 << 61),
    "a chunk of nothing": ("data.chunk_records", 0),
    "no budget": ("budget_samples", 0),
    "an endless budget": ("budget_samples", 1 << 70),
    "no iter_size": ("iter_size", 0),
    "an infinite rate": ("schedule.base_lr", float("inf")),
    "half of a pair": ("solver_text", "\ud800"),
    "a NUL": ("train_net_text", "a\0b"),
    "a list": ("name", ["a"]),
}


@pytest.mark.parametrize("wrong", WRONG_FIELDS)
def test_a_jobs_settings_are_held_to_their_ranges_when_they_are_read(wrong: str) -> None:
    where, value = WRONG_FIELDS[wrong]
    record = json.loads(SPEC.to_json())
    *rooms, field = where.split(".")
    inner = record
    for room in rooms:
        inner = inner[room]
    inner[field] = value
    with pytest.raises(UsageError, match=r"job"):
        JobSpec.from_json(json.dumps(record).encode())


def test_a_job_that_was_made_is_read() -> None:
    assert JobSpec.from_json(SPEC.to_json()) == SPEC


@pytest.mark.parametrize(
    "value", [b"", b"\xff", b"[]", b"[" * 100_000, b'{"format": 3}', SPEC.to_json()[:-9]]
)
async def test_a_job_that_cannot_be_read_is_one_line_which_names_it(value: bytes) -> None:
    server = MemoryEtcd(FakeClock())
    server.transact([], [Put(JobKeys("job").spec, value)])
    with pytest.raises(UsageError, match="'job'") as error:
        await load_job(MemoryStore(server), "job")
    assert "\n" not in str(error.value)


async def test_a_job_under_another_name_and_a_name_that_is_none_are_not_taken_for_jobs() -> None:
    server = MemoryEtcd(FakeClock())
    store = MemoryStore(server)
    server.transact([], [Put(JobKeys("mine").spec, SPEC.to_json())])
    server.transact([], [Put("/gossip-caffe/jobs/../x/spec", b""), Put("/gossip-caffe/jobs/A\x1b/spec", b"")])
    assert await list_jobs(store) == ["mine"]
    with pytest.raises(UsageError, match="it is the record of 'job'"):
        await load_job(store, "mine")


async def test_a_store_elsewhere_is_asked_for_plain_names_only(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").write_text("keep me")
    store = UrlStore(f"file://{tmp_path}/store", "job")
    (tmp_path / "store" / "job").mkdir(parents=True)
    before = tree_digest(tmp_path)
    for hostile in IDS:
        if hostile != "\ud800":
            await store.remove([hostile])
            with pytest.raises(NotFound):
                [piece async for piece in store.pull("", "job", hostile, MODEL, 0)]
            with pytest.raises(NotFound):
                [piece async for piece in store.pull("", "job", ID, hostile, 0)]
    assert tree_digest(tmp_path) == before
