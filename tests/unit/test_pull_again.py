"""A holder that breaks off is asked again for the rest, as long as it brings some of it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.manifest import MANIFEST
from gossip_caffe.checkpoint.pull import MOST_PARTS, NoHolder, pull
from tests.unit.test_checkpoint_files import WEIGHTS, load, manifest_of, write_state


class Breaking:
    """A holder whose connections end after so many bytes of a file; ``offsets``: where each began."""

    def __init__(self, folder: CheckpointFolder, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self.offsets: list[int] = []

    async def pull(
        self, address: str, job: str, checkpoint: str, file: str, offset: int
    ) -> AsyncIterator[bytes]:
        _, pieces = self._folder.open_file(checkpoint, file, offset)
        content = b"".join([piece async for piece in pieces])
        if file == MANIFEST:
            yield content
            return
        self.offsets.append(offset)
        yield content[: self._most_bytes]


@pytest.fixture
def whole(tmp_path: Path) -> CheckpointFolder:
    folder = CheckpointFolder(tmp_path / "whole")
    folder.write(manifest_of("c1"), WEIGHTS, write_state)
    return folder


async def pulled(client: Breaking, whole: CheckpointFolder, joiner: CheckpointFolder) -> None:
    announcement = Announcement("c1", whole.manifest("c1").digest, 7, 1.5, {"p0": "p0"})
    await pull(announcement, job="job", client=client, folder=joiner, rng=random.Random(1))


def size_of(whole: CheckpointFolder) -> int:
    return sum(entry.size_bytes for entry in whole.manifest("c1").files)


async def test_one_holder_that_breaks_off_again_and_again_is_enough(
    tmp_path: Path, whole: CheckpointFolder
) -> None:
    client, joiner = Breaking(whole, size_of(whole) // 10), CheckpointFolder(tmp_path / "joiner")
    await pulled(client, whole, joiner)
    assert np.array_equal(load(joiner, "c1")[1], WEIGHTS)
    assert client.offsets.count(0) == len(whole.manifest("c1").files), "nothing is brought twice"


async def test_one_that_brings_nothing_more_is_given_up(tmp_path: Path, whole: CheckpointFolder) -> None:
    class Stuck(Breaking):
        async def pull(
            self, address: str, job: str, checkpoint: str, file: str, offset: int
        ) -> AsyncIterator[bytes]:
            async for piece in super().pull(address, job, checkpoint, file, offset):
                yield piece if not offset or file == MANIFEST else b""

    client = Stuck(whole, 10)
    with pytest.raises(NoHolder, match="broke off after 10 of"):
        await pulled(client, whole, CheckpointFolder(tmp_path / "joiner"))
    assert len(client.offsets) <= 2


async def test_one_that_dribbles_does_not_keep_a_joiner_for_ever(
    tmp_path: Path, whole: CheckpointFolder
) -> None:
    client = Breaking(whole, 1)
    with pytest.raises(NoHolder, match="broke off"):
        await pulled(client, whole, CheckpointFolder(tmp_path / "joiner"))
    assert len(client.offsets) <= MOST_PARTS
