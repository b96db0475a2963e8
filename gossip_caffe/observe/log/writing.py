"""A peer's event log on a disk: parts of a bounded size, and the tail with the batches of a growing run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gossip_caffe.clock import Clock
from gossip_caffe.errors import EnvironmentProblem
from gossip_caffe.observe.log.events import SCHEMA_VERSION, Event, is_torn, read_events
from gossip_caffe.observe.log.parts import closed_part, closed_parts, number_of_open, open_part, tail_of
from gossip_caffe.observe.log.runs import has_line
from gossip_caffe.printable import json_text
from gossip_caffe.system.folders import folder_within, open_within

INSTEAD = "give another --run-dir, or check its disk"
PART_BYTES = 1 << 20
"""The size at which a part is closed, before it is compressed."""


def do_nothing() -> None:
    """Do nothing after a part is closed."""


class LineFile:
    """A file to which lines are appended, each with one write. A torn line before a new one is ended first."""

    def __init__(self, path: Path) -> None:
        """Raises EnvironmentProblem for a file that cannot be opened, OSError for one that cannot be read."""
        self.path = path
        self.file = open_within(path, "ab", INSTEAD)
        self.size = self.file.tell()
        self._torn = is_torn(path)  # an earlier process of that name was killed in the middle of a line

    def append(self, line: bytes) -> None:
        """Append a line with its end. Raises OSError if the disk does not take all of it."""
        rest = b"\n" + line if self._torn else line
        try:
            while rest:
                taken = self.file.write(rest)
                self.size += taken
                rest = rest[taken:]
                self._torn = bool(rest)
        except OSError:
            if rest != b"\n":
                raise
            # Only the line's end is missing, which the next append writes first.

    def clear(self) -> None:
        """Remove all lines. Raises OSError."""
        self.file.truncate(0)
        self.size, self._torn = 0, False

    def close(self) -> None:
        """Close the file."""
        self.file.close()


class JsonLinesLog:
    """Events appended to files, each with one write, so that a kill loses at most the last one.

    A full disk loses events but does not end the peer. The loss is reported once; when the disk has room again, the
    log states the number of missing events. A part of ``part_bytes`` is closed, and ``after_closing`` is called; it
    must return at once.
    """

    def __init__(
        self,
        folder: Path,
        peer: str,
        clock: Clock,
        say: Callable[[str], None] = print,
        *,
        part_bytes: int = PART_BYTES,
        after_closing: Callable[[], None] = do_nothing,
    ) -> None:
        """Raises EnvironmentProblem when a file cannot be created, or is a link or another user's file."""
        self._folder = folder
        self._peer = peer
        self._clock = clock
        self._say = say
        self._part_bytes = self._close_at = part_bytes
        self._after_closing = after_closing
        self._said = False
        self._dropped = 0
        path = open_part(folder, peer)
        try:
            folder_within(folder, INSTEAD)
            closed = closed_parts(folder, peer)
            self._log = LineFile(path)
            self._tail = LineFile(tail_of(folder, peer))
            self._number = max(number_of_open(path), closed[-1].number + 1 if closed else 1)
        except EnvironmentProblem as error:
            raise EnvironmentProblem(f"cannot write {path}: {error.message}", remedy=error.remedy) from None
        except OSError as error:
            raise EnvironmentProblem(f"cannot read {path} ({error.strerror})", remedy=INSTEAD) from error
        self._has_heading = self._number == 1 or self._log.size > 0
        self._take_over_tail()
        if closed:
            after_closing()

    def emit(self, event: Event, **fields: object) -> None:
        """Append the event as one line. It stands for all events that are held."""
        if self._dropped:
            if not self._append(Event.LOG_GAP, {"dropped": self._dropped}):
                self._dropped += 1
                return
            self._dropped = 0
        if not self._append(event, fields):
            self._dropped += 1
        if event is Event.TRAINED and self._tail.size:
            self._clear_tail()

    def hold(self, event: Event, **fields: object) -> bool:
        """Keep an event of a growing run in the tail. Returns False if the disk does not take it."""
        try:
            self._tail.append(self._line(event, fields))
        except OSError as error:
            self._say_once(self._tail.path, error)
            return False
        return True

    def _append(self, event: Event, fields: dict[str, object]) -> bool:
        """Append a line. Returns True if all of it was written."""
        if self._log.size >= self._close_at:
            self._close_part()
        return self._write(self._line(event, fields))

    def _write(self, line: bytes) -> bool:
        if not self._has_heading:
            line = self._line(Event.LOG_PART, {"number": self._number, "schema": SCHEMA_VERSION}) + line
        try:
            self._log.append(line)
        except OSError as error:
            self._say_once(self._log.path, error)
            return False
        self._has_heading = True
        return True

    def _line(self, event: Event, fields: dict[str, object]) -> bytes:
        head = {
            "t": round(self._clock.wall(), 6),
            "m": round(self._clock.monotonic(), 6),
            "peer": self._peer,
            "event": event.value,
        }
        return json_text({**head, **fields}, separators=(",", ":")).encode() + b"\n"

    def _close_part(self) -> None:
        """Close the open part and begin the next one. The open part goes on if the disk refuses that."""
        path, closed = self._log.path, closed_part(self._folder, self._peer, self._number)
        try:
            path.rename(closed)
            try:
                following = LineFile(path)
            except (EnvironmentProblem, OSError):
                closed.rename(path)
                raise
        except (EnvironmentProblem, OSError):
            self._close_at = self._log.size + self._part_bytes  # a part that is too long is no loss
            return
        self._log.close()
        self._log, self._number, self._has_heading = following, self._number + 1, False
        self._close_at = self._part_bytes
        self._after_closing()

    def _take_over_tail(self) -> None:
        """Append the batches that an earlier process of this name held when it was killed."""
        if not self._tail.size:
            return
        *_, newest = (None, *read_events(self._log.path))
        last = newest if newest is not None and newest["event"] == Event.TRAINED else None
        for event in read_events(self._tail.path):
            if not has_line(event, last):
                line = json_text(event, separators=(",", ":")).encode() + b"\n"
                self._dropped += not self._write(line)
        self._clear_tail()

    def _clear_tail(self) -> None:
        try:
            self._tail.clear()
        except OSError as error:  # readers see by the times of its lines that they have been written
            self._say_once(self._tail.path, error)

    def _say_once(self, path: Path, error: OSError) -> None:
        if not self._said:
            self._said = True
            self._say(f"{self._peer}: its events cannot be written to {path} ({error.strerror}) and are lost")

    def close(self) -> None:
        """Close the files. A tail without a line is removed."""
        self._log.close()
        self._tail.close()
        if not self._tail.size:
            try:
                self._tail.path.unlink()
            except OSError:
                pass  # an empty file is no harm
