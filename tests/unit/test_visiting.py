"""What somebody who is no peer gets of a checkpoint."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.manifest import MODEL
from gossip_caffe.checkpoint.url_store import elsewhere_of
from gossip_caffe.errors import CheckpointRefused
from gossip_caffe.job.spec import JobSettings
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.memory_etcd import MemoryEtcd
from gossip_caffe.membership.memory_store import MemoryStore
from gossip_caffe.membership.store import Put
from gossip_caffe.peer.visiting import fetch, fetch_from
from tests.fake_clock import FakeClock
from tests.unit.test_checkpoint_files import WEIGHTS, FoldersOfHolders, flip, manifest_of, write_state
from tests.unit.test_checkpointing import SPEC


async def test_a_holder_whose_copy_is_broken_is_not_whole_because_the_jobs_store_has_it(
    tmp_path: Path,
) -> None:
    spec = dataclasses.replace(SPEC, settings=JobSettings(checkpoint_store=f"file://{tmp_path}/store"))
    holder = CheckpointFolder(tmp_path / "holder")
    described = dataclasses.replace(manifest_of("c1"), job_fingerprint=spec.fingerprint)
    manifest = holder.write(described, WEIGHTS, write_state)
    elsewhere = elsewhere_of(spec)
    assert elsewhere is not None
    await elsewhere.put(holder.path("c1"), manifest)
    flip(holder.path("c1", MODEL), random.Random(1))
    entry = Announcement("c1", manifest.digest, 7, 0.0, {"p0": str(holder.root)})
    client, rng = FoldersOfHolders(holder), random.Random(1)
    with pytest.raises(CheckpointRefused, match=r"p0: model\.caffemodel is not what was announced"):
        await fetch_from(client, spec, entry, CheckpointFolder(tmp_path / "verified"), rng)
    store = MemoryStore(MemoryEtcd(FakeClock()))
    await store.transact([], [Put(JobKeys("job").checkpoint("c1"), entry.to_json())])
    assert await fetch(store, client, spec, "", CheckpointFolder(tmp_path / "pulled"), rng) == manifest
