"""What somebody who is no peer gets of a checkpoint."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.manifest import MODEL
from gossip_caffe.checkpoint.url_store import remote_store_of
from gossip_caffe.errors import CheckpointRefused
from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.etcd.store import Put
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.peer.outside_access import fetch, fetch_from
from tests.fake_clock import FakeClock
from tests.unit.test_checkpoint_files import WEIGHTS, FoldersOfHolders, flip, manifest_of, write_state
from tests.unit.test_checkpointing import SPEC

C1 = "00000000000007-c1"


async def test_a_holder_whose_copy_is_broken_is_not_whole_because_the_jobs_store_has_it(
    tmp_path: Path,
) -> None:
    spec = dataclasses.replace(SPEC, settings=JobSettings(checkpoint_store=f"file://{tmp_path}/store"))
    holder = CheckpointFolder(tmp_path / "holder")
    described = dataclasses.replace(manifest_of(C1), job_fingerprint=spec.fingerprint)
    manifest = holder.write(described, WEIGHTS, write_state)
    remote_store = remote_store_of(spec)
    assert remote_store is not None
    await remote_store.put(holder.path(C1), manifest)
    flip(holder.path(C1, MODEL), random.Random(1))
    entry = Announcement(C1, manifest.digest, 7, 0.0, {"p0": "p0:1"})
    client, rng = FoldersOfHolders(holder), random.Random(1)
    client.by_address["p0:1"] = holder
    with pytest.raises(CheckpointRefused, match=r"p0: model\.caffemodel is not what was announced"):
        await fetch_from(client, spec, entry, CheckpointFolder(tmp_path / "verified"), rng)
    store = MemoryStore(MemoryEtcd(FakeClock()))
    await store.transact([], [Put(JobKeys("job").checkpoint(C1), entry.to_json())])
    assert await fetch(store, client, spec, "", CheckpointFolder(tmp_path / "pulled"), rng) == manifest


async def test_false_announcements_keep_no_reader_from_the_newest_whole_checkpoint(
    tmp_path: Path,
) -> None:
    holder = CheckpointFolder(tmp_path / "holder")
    described = dataclasses.replace(manifest_of(C1), job_fingerprint=SPEC.fingerprint)
    manifest = holder.write(described, WEIGHTS, write_state)
    budget = SPEC.budget_samples
    store = MemoryStore(MemoryEtcd(FakeClock()))
    for entry in (
        Announcement(C1, manifest.digest, 7, 0.0, {"p0": "p0:1"}),
        Announcement("zz", "0" * 64, 10**12, 0.0, {"nobody": "nobody:1"}),
        Announcement("zy", "0" * 64, 7, 0.0, {"nobody": "nobody:1"}),
        Announcement(f"{budget:014d}-zz", "0" * 64, budget, 0.0, {"nobody": "nobody:1"}),
        Announcement(f"{budget - 1:014d}-zz", "0" * 64, budget - 1, 0.0, {"p0": "p0:1"}),
    ):
        await store.transact([], [Put(JobKeys("job").checkpoint(entry.checkpoint), entry.to_json())])
    client, rng = FoldersOfHolders(holder), random.Random(1)
    client.by_address["p0:1"] = holder
    client.by_address["nobody:1"] = CheckpointFolder(tmp_path / "nobody")
    said: list[str] = []
    kept = CheckpointFolder(tmp_path / "pulled")
    found = await fetch(store, client, SPEC, "", kept, rng, ignored=lambda key, _, why: said.append(key))
    assert found == manifest
    assert [key.rpartition("/")[2] for key in said] == [
        "zz",
        "zy",
        f"{budget:014d}-zz",
        f"{budget - 1:014d}-zz",
    ]
    with pytest.raises(CheckpointRefused, match=f"{budget:014d}-zz"):
        await fetch(store, client, SPEC, f"{budget:014d}", kept, rng)
