"""The events of this machine's peers while they run, for displays."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Container
from pathlib import Path
from typing import IO, Any

from gossip_caffe.observe.log.events import Event
from gossip_caffe.observe.log.parts import Part, closed_parts, open_part, parts_of, peers_in


class LogTail:
    """The new lines of one peer's log, from the log's beginning on, while the peer appends to it and closes parts.

    ``since``: parts that were written last before this time (seconds since 1970) are not read.
    The file that is read stays open: it has another name when it is closed, and perhaps none when it is compressed.
    """

    def __init__(self, folder: Path, peer: str, since: float = 0.0) -> None:
        self._folder = folder
        self._peer = peer
        self._since = since
        self._file: IO[bytes] | None = None
        self._number = 0

    def new(self) -> list[dict[str, Any]]:
        """The events since the last call. A line that is not complete yet is returned by a later call."""
        found: list[dict[str, Any]] = []
        while self._file is not None or self._open_next():
            ended = (
                self._is_closed()
            )  # asked first: after it no line is appended to the file that is read now
            found += self._read()
            if not ended or not self._open_next():
                break
        return found

    def close(self) -> None:
        """Close the file that is read."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self) -> list[dict[str, Any]]:
        file = self._file
        if file is None:
            return []
        whole, end, rest = file.read().rpartition(b"\n")
        file.seek(-len(rest), os.SEEK_CUR)
        found = []
        for line in (whole + end).split(b"\n"):
            try:
                event = json.loads(line)
            except ValueError:
                continue  # a torn line, left by a killed writer or a full disk
            if isinstance(event, dict) and event.get("event") != Event.LOG_PART:
                found.append(event)
        return found

    def _parts(self) -> list[Part]:
        return parts_of(self._folder, self._peer)

    def _is_closed(self) -> bool:
        """True if the file that is read is no longer the open part."""
        if self._file is None or isinstance(self._file, io.BytesIO):
            return True
        try:
            here = open_part(self._folder, self._peer).stat()
        except FileNotFoundError:
            return bool(closed_parts(self._folder, self._peer))
        reading = os.fstat(self._file.fileno())
        return (here.st_dev, here.st_ino) != (reading.st_dev, reading.st_ino)

    def _open_next(self) -> bool:
        """Open the part after the one that was read. Returns False if it is not there yet."""
        following = next((part for part in self._parts() if self._is_wanted(part)), None)
        if following is None:
            return False
        try:
            file = _opened(following)
        except (OSError, EOFError):
            return False  # it was closed or compressed meanwhile; the next call finds it
        if following not in self._parts():
            file.close()  # the peer has closed this part meanwhile, and the file may be the next one
            return False
        self.close()
        self._file, self._number = file, following.number
        return True

    def _is_wanted(self, part: Part) -> bool:
        """True for a part that was not read yet, and is not too old."""
        try:
            return part.number > self._number and part.path.stat().st_mtime >= self._since
        except FileNotFoundError:
            return False  # it was closed or compressed meanwhile; the next call finds it


def _opened(part: Part) -> IO[bytes]:
    if not part.compressed:
        return part.path.open("rb")
    with gzip.open(part.path) as whole:
        return io.BytesIO(whole.read())


class LogFollower:
    """The logs in a folder, from their beginning on. ``kinds``: the wanted events; ``since``: as in ``LogTail``."""

    def __init__(self, folder: Path, kinds: Container[str], since: float = 0.0) -> None:
        self._folder = folder
        self._kinds = kinds
        self._since = since
        self._tails: dict[str, LogTail] = {}

    def new(self) -> list[dict[str, Any]]:
        """The events since the last call, in order of time.

        A line that is not complete yet is returned by a later call.
        """
        for peer in peers_in(self._folder):
            self._tails.setdefault(peer, LogTail(self._folder, peer, self._since))
        found = [
            event for tail in self._tails.values() for event in tail.new() if event["event"] in self._kinds
        ]
        return sorted(found, key=lambda event: float(event.get("t", 0.0)))
