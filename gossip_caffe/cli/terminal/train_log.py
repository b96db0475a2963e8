"""The file of ``train --log``: the training as ``caffe train`` logs it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gossip_caffe.errors import EnvironmentProblem
from gossip_caffe.observe.export.caffe_lines import CaffeLog

TakeEvent = Callable[[Mapping[str, Any]], None]


class TrainLog:
    """Lines appended to ``path``, which replace an older file. A disk that takes no more ends the log, and is said."""

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        """Raises EnvironmentProblem when the file cannot be written."""
        try:
            self._file = path.open("w", encoding="utf-8", buffering=1)
        except OSError as error:
            raise EnvironmentProblem(
                f"cannot write {path} ({error.strerror})", remedy="give --log a file that can be written"
            ) from None
        self._path = path
        self._say = say
        self._lines = CaffeLog()
        self._works = True

    def take(self, event: Mapping[str, Any]) -> None:
        """Append the lines of the next event; most events have none."""
        if not self._works:
            return
        try:
            for line in self._lines.lines(event):
                self._file.write(f"{line}\n")
        except OSError as error:
            self._works = False
            self._say(
                f"{self._path} ends here: {error.strerror}; 'gossip-caffe logs --format caffe' has all of it"
            )

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):  # the buffered line that the disk did not take
            self._file.close()


def discard(event: Mapping[str, Any]) -> None:
    """Take an event where there is no log."""
    del event


@contextlib.contextmanager
def train_log(path: Path | None, say: Callable[[str], None]) -> Iterator[TakeEvent]:
    """Yield a function that takes events for the log at ``path``; None: no log. Raises EnvironmentProblem."""
    if path is None:
        yield discard
        return
    log = TrainLog(path, say)
    try:
        yield log.take
    finally:
        log.close()
