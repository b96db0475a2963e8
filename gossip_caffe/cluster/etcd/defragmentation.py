"""The defragmentation of a local cluster's etcd, when its file is much larger than its used part.

etcd does not return the space that compaction frees to the system; it only reuses it. So the space of a burst of
writes, or of an earlier run's history, would stay on the disk for ever. A defragmentation blocks the server for some
tenths of a second with a job's data, which all clients tolerate. So it is done seldom, and only when it frees much.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from gossip_caffe.errors import StoreError
from gossip_caffe.membership.etcd.etcd_store import Sizes

LOOK_EVERY_S = 60.0
EVERY_S = 600.0
LEAST_GAIN_BYTES = 128 << 20
LEAST_RATIO = 2.0
_SPARE_BYTES = 64 << 20
_MB = 1_000_000


class Defragmented(Protocol):
    """The operations of an etcd that a defragmentation needs."""

    async def sizes(self) -> Sizes:
        """Return the size of etcd's file, and the size of its used part, in bytes."""
        ...

    async def defragment(self) -> None:
        """Reduce etcd's file to its used part."""
        ...


def is_worth_it(sizes: Sizes, free_bytes: int) -> bool:
    """True if a defragmentation frees enough, and the new file has room beside the old one.

    Some versions of etcd end when the disk runs full meanwhile. So twice the used part has to be free, and
    _SPARE_BYTES more.
    """
    gain = sizes.file_bytes - sizes.used_bytes
    much = gain >= LEAST_GAIN_BYTES and sizes.file_bytes >= LEAST_RATIO * sizes.used_bytes
    return much and free_bytes >= 2 * sizes.used_bytes + _SPARE_BYTES


class Defragmenter:
    """Checks etcd's file once a minute, and defragments it at most every ten minutes.

    ``data_dir``: a folder on etcd's disk; ``say`` is called with one line after a defragmentation; ``now``: the clock,
    in seconds.
    """

    def __init__(
        self, data_dir: Path, say: Callable[[str], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._data_dir = data_dir
        self._say = say
        self._now = now
        self._look_at = now() + LOOK_EVERY_S

    @property
    def due(self) -> bool:
        """True if the next check is due."""
        return self._now() >= self._look_at

    async def look(self, etcd: Defragmented) -> None:
        """Check etcd's file, if that is due, and defragment it if it is worth it. After an error it tries later."""
        now = self._now()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY_S
        try:
            before = await etcd.sizes()
            if not is_worth_it(before, shutil.disk_usage(self._data_dir).free):
                return
            self._look_at = now + EVERY_S
            await etcd.defragment()
            after = await etcd.sizes()
        except (StoreError, OSError):
            return
        self._say(
            f"etcd's file was made smaller: {before.file_bytes / _MB:,.0f} MB are {after.file_bytes / _MB:,.0f} MB now"
        )
