"""The closed parts of a peer's log: they are compressed in a thread, and the oldest are removed beyond a given size.

A kill at any moment loses no event: the compressed part gets its name only when it is whole and on the disk, and only
then the other file is removed. A part that a killed process left uncompressed is compressed by the next process.
"""

from __future__ import annotations

import gzip
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from gossip_caffe.background import thread
from gossip_caffe.errors import EnvironmentProblem
from gossip_caffe.observe.log.events import COMPRESSED
from gossip_caffe.observe.log.parts import closed_parts, open_part
from gossip_caffe.observe.log.writing import INSTEAD
from gossip_caffe.system.folders import flush, open_within

LEVEL = 6
PIECE_BYTES = 1 << 16
PARTS_IN_BOUND = 4
"""A bounded log consists of at least this many parts, so that a removal takes little of it."""


class ClosedParts:
    """Compresses the closed parts of a peer's log, and keeps its size below ``most_bytes`` (0: without a limit).

    ``say`` and ``begin``, which starts a thread, are called from the thread of the caller or from that thread.
    """

    def __init__(
        self,
        folder: Path,
        peer: str,
        say: Callable[[str], None],
        most_bytes: int = 0,
        begin: Callable[[Callable[[], object], str], threading.Thread] = thread,
    ) -> None:
        self._folder = folder
        self._peer = peer
        self._say = say
        self._most_bytes = most_bytes
        self._begin = begin
        self._one_at_a_time = threading.Lock()
        self._newest: threading.Thread | None = None
        self._said: set[str] = set()

    def begin(self) -> None:
        """Begin to compress and remove in a thread. Returns at once."""
        self._newest = self._begin(self.tidy, f"the log of {self._peer}")

    def wait(self, seconds: float) -> None:
        """Wait for the thread that was begun last. An uncompressed part is left when it does not end in time."""
        if self._newest is not None:
            self._newest.join(seconds)

    def tidy(self) -> None:
        """Compress all closed parts, then remove the oldest ones beyond the limit."""
        with self._one_at_a_time:
            for part in closed_parts(self._folder, self._peer):
                try:
                    if not part.compressed:
                        compress(part.path)
                except (OSError, EnvironmentProblem) as error:
                    why = error.strerror if isinstance(error, OSError) else error.message
                    self._say_once(f"{self._peer}: a part of its event log stays uncompressed ({why})")
                    break
            if self._most_bytes:
                self._remove_oldest()

    def _remove_oldest(self) -> None:
        parts = closed_parts(self._folder, self._peer)
        sizes = [part.path.stat().st_size for part in parts]
        total = sum(sizes) + _size_of(open_part(self._folder, self._peer))
        for part, size in zip(parts, sizes, strict=True):
            if total <= self._most_bytes:
                return
            part.path.unlink(missing_ok=True)
            total -= size
            self._say_once(
                f"{self._peer}: its event log has reached {self._most_bytes:,} bytes, and the oldest part is removed; "
                "'gossip-caffe verify' cannot judge all invariants without it"
            )

    def _say_once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self._say(line)


def compress(path: Path) -> None:
    """Compress a closed part, and remove the uncompressed file.

    Raises OSError or EnvironmentProblem; the uncompressed file then stays.
    """
    compressed = path.with_name(f"{path.name}{COMPRESSED}")
    unfinished = path.with_name(f".{compressed.name}")
    try:
        with path.open("rb") as plain, open_within(unfinished, "wb", INSTEAD) as file:
            with gzip.GzipFile("", "wb", LEVEL, file, mtime=0) as packed:
                shutil.copyfileobj(plain, packed, PIECE_BYTES)
            flush(file.fileno())
        unfinished.replace(compressed)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)
    path.unlink()


def _flush_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        flush(fd)
    finally:
        os.close(fd)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
