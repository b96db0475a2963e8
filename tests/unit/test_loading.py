"""A checkpoint on its way into a peer."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.manifest import MANIFEST, MODEL
from gossip_caffe.clock import SystemClock
from gossip_caffe.errors import CheckpointRefused
from gossip_caffe.observe.log.events import Event, MemoryLog
from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.peer.joining.loading import load
from gossip_caffe.peer.sharing.pairwise import pairwise
from tests.unit.test_checkpoint_files import (
    WEIGHTS,
    FoldersOfHolders,
    a_folder,
    flip,
    manifest_of,
    of_another_kind,
    write_state,
)
from tests.unit.test_checkpointing import SPEC


@pytest.mark.parametrize("damage", [flip, a_folder, of_another_kind])
@pytest.mark.parametrize("damaged", [MODEL, MANIFEST])
@pytest.mark.parametrize("where", ["own", "beside"])
@pytest.mark.parametrize("holders", [1, 0])
async def test_a_damaged_copy_of_its_own_is_thrown_away_and_a_whole_one_is_pulled(
    tmp_path: Path, damage: Callable[[Path, random.Random], None], damaged: str, where: str, holders: int
) -> None:
    holder, mine = CheckpointFolder(tmp_path / "there" / "p0"), CheckpointFolder(tmp_path / "here" / "p1")
    other = mine if where == "own" else CheckpointFolder(tmp_path / "here" / "p2")
    described = replace(manifest_of("c1"), job_fingerprint=SPEC.fingerprint)
    digest = holder.write(described, WEIGHTS, write_state).digest
    other.write(described, WEIGHTS, write_state)
    damage(other.path("c1", damaged), random.Random(1))
    log = MemoryLog()
    nothing: Any = None  # no store and no network is asked
    world = PeerDependencies(
        spec=SPEC,
        store=nothing,
        transport=nothing,
        serve=nothing,
        folder=mine,
        files=FoldersOfHolders(holder),
        clock=SystemClock(),
        rng=random.Random(1),
        log=log,
        say=lambda line: None,
        strategy=pairwise,
    )
    announcement = Announcement("c1", digest, 7, 1.5, {"p0": str(holder.root)} if holders else {})
    if not holders:
        with pytest.raises(CheckpointRefused, match="no holders"):
            await load(world, "p1", announcement)
        assert mine.ids() == []
        return
    loaded = await load(world, "p1", announcement)
    np.testing.assert_array_equal(loaded.weights, WEIGHTS)
    refused = [event for event in log.events if event["event"] == Event.CHECKPOINT_REFUSED]
    # Beside, another manifest is no copy at all, nor is one that lacks a file; and without a manifest nothing is there.
    if damaged == MODEL and damage is not of_another_kind:
        assert len(refused) == (where == "own" or damage is not a_folder)
    else:
        assert len(refused) == (where == "own" and damage is not a_folder)
