"""When the file of an etcd of our own is made smaller."""

from __future__ import annotations

from pathlib import Path

import pytest

from gossip_caffe.cluster.etcd.defragmentation import EVERY_S, LOOK_EVERY_S, Defragmenter, is_worth_it
from gossip_caffe.errors import StoreError, StoreUnavailable
from gossip_caffe.membership.etcd.etcd_store import Sizes

MB = 1_000_000
GAIN = Sizes(file_bytes=500 * MB, used_bytes=20 * MB)


class Etcd:
    """Says its sizes, and counts how often it is defragmented."""

    def __init__(self, sizes: Sizes, error: StoreError | None = None) -> None:
        self.now, self.error, self.asked, self.made = sizes, error, 0, 0

    async def sizes(self) -> Sizes:
        self.asked += 1
        return self.now

    async def defragment(self) -> None:
        if self.error is not None:
            raise self.error
        self.made += 1
        self.now = Sizes(self.now.used_bytes, self.now.used_bytes)


@pytest.mark.parametrize(
    ("file_mb", "used_mb", "free_mb", "worth"),
    [
        (500, 20, 10_000, True),
        (500, 300, 10_000, False),  # most of it is in use
        (100, 1, 10_000, False),  # little to win
        (500, 20, 50, False),  # the new file would not fit beside the old one
        (4000, 100, 300, True),
    ],
)
def test_only_a_file_that_is_much_larger_than_what_is_in_use(
    file_mb: int, used_mb: int, free_mb: int, worth: bool
) -> None:
    assert is_worth_it(Sizes(file_mb * MB, used_mb * MB), free_mb * MB) is worth


async def test_it_is_looked_at_now_and_then_and_made_smaller_at_most_every_some_minutes(
    tmp_path: Path,
) -> None:
    etcd, said, now = Etcd(GAIN), list[str](), 0.0
    defragmenter = Defragmenter(tmp_path, said.append, now=lambda: now)
    await defragmenter.look(etcd)
    assert etcd.asked == 0
    now = LOOK_EVERY_S
    for _ in range(3):
        await defragmenter.look(etcd)
    assert (etcd.asked, etcd.made) == (2, 1)
    assert said == ["etcd's file was made smaller: 500 MB are 20 MB now"]
    etcd.now = GAIN
    now = EVERY_S
    await defragmenter.look(etcd)
    assert etcd.made == 1
    now = LOOK_EVERY_S + EVERY_S
    await defragmenter.look(etcd)
    assert etcd.made == 2


@pytest.mark.parametrize("error", [StoreUnavailable("away"), StoreError("no space left on device")])
async def test_one_that_cannot_be_made_smaller_is_tried_again_later_and_costs_nothing(
    tmp_path: Path, error: StoreError
) -> None:
    etcd, said, now = Etcd(GAIN, error), list[str](), LOOK_EVERY_S * 1.0
    defragmenter = Defragmenter(tmp_path, said.append, now=lambda: now)
    await defragmenter.look(etcd)
    now += LOOK_EVERY_S
    await defragmenter.look(etcd)
    etcd.error = None
    now += LOOK_EVERY_S
    await defragmenter.look(etcd)
    assert etcd.made == 0
    now += EVERY_S
    await defragmenter.look(etcd)
    assert (etcd.made, len(said)) == (1, 1)


async def test_a_folder_that_is_gone_is_no_reason_to_end(tmp_path: Path) -> None:
    etcd, now = Etcd(GAIN), 0.0
    defragmenter = Defragmenter(tmp_path / "gone" / "etcd", lambda line: None, now=lambda: now)
    now = LOOK_EVERY_S
    await defragmenter.look(etcd)
    assert etcd.made == 0
