"""Bugs by which a peer obeys what somebody else wrote into the store."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from gossip_caffe.checkpoint import ending
from gossip_caffe.checkpoint.copy_removal import Copy, CopyToRemove
from gossip_caffe.peer.checkpoints import announcing, retaining
from gossip_caffe.shards import ledger
from gossip_caffe.sim.faults.outside import VICTIM

Patch = pytest.MonkeyPatch


def forget_what_one_listing_lacks(patch: Patch) -> None:
    """A copy goes as soon as its checkpoint is not announced."""

    def all_of_them(copies: Iterable[Copy], newest_whole: Any, last: int) -> list[CopyToRemove]:
        return [CopyToRemove(copy, "not announced") for copy in copies]

    patch.setattr(retaining, "copies_to_remove", all_of_them)


def forget_without_grace(patch: Patch) -> None:
    """What nobody took back goes at once; the newest two stay."""

    def at_once(copies: Iterable[Copy], newest_whole: Any, last: int) -> list[CopyToRemove]:
        return [CopyToRemove(copy, "not announced") for copy in copies if copy.checkpoint not in newest_whole]

    patch.setattr(retaining, "copies_to_remove", at_once)


def believe_any_end(patch: Patch) -> None:
    """The job has ended as soon as somebody says so."""
    patch.setattr(ending, "_objection", lambda *about: "")


def follow_an_id_out_of_the_folder(patch: Patch) -> None:
    """An id from the store is a path: what lies there makes room for the checkpoint."""
    believed = announcing.listed_of

    async def obeyed(world: Any) -> Any:
        for key in await world.store.keys(world.keys.checkpoints):
            there = Path(os.path.normpath(world.folder.root / key.removeprefix(world.keys.checkpoints)))
            if there.name == VICTIM and there.is_relative_to(world.folder.root.parent.parent):
                shutil.rmtree(there, ignore_errors=True)
        return await believed(world)

    patch.setattr("gossip_caffe.peer.checkpoints.checkpointing.listed_of", obeyed)


def take_every_mark_for_done(patch: Patch) -> None:
    """A chunk is done when there is a key that says so, whoever wrote it."""
    patch.setattr(ledger, "not_settled", lambda item: "")
    patch.setattr("gossip_caffe.shards.audit.not_settled", lambda item: "")


ROWS: tuple[tuple[Callable[[Patch], None], str, str], ...] = (
    (forget_what_one_listing_lacks, "known-writer", "foreign-write"),
    (forget_without_grace, "known-writer", "foreign-write"),
    (believe_any_end, "known-writer", "foreign-write"),
    (follow_an_id_out_of_the_folder, "known-writer", "foreign-write"),
    (take_every_mark_for_done, "full-coverage", "foreign-write"),
)
