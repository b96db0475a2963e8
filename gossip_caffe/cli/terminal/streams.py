"""Standard output and standard error whose writes never fail: training matters more than its output.

A terminal closes, ``tee`` dies of the same Ctrl-C, a log's disk is full: none of these may end a training. So a
command replaces both streams by ``OutputStream`` when it starts. The first failure silences a stream; ``failure`` keeps
the error for the commands that only print. No control character but the end of a line reaches a terminal or a log
(``printable``), in text from any source. Only the output of ``rich`` passes unchanged, through ``drawing``.
"""

from __future__ import annotations

import codecs
import errno
import io
import logging
import os
import select
import stat
import sys
import threading
import time
from collections import deque
from typing import TextIO, cast

import click

from gossip_caffe.errors import ExitCode
from gossip_caffe.printable import PrintableFormatter, printable, printable_line

KEPT_BYTES = 1 << 20
"""The most output that a stream keeps for a reader that does not read; older output is dropped."""
LAST_WAIT_S = 5.0
"""The time that a command's end waits for a reader that reads nothing."""
_CLOSED = (errno.EPIPE, errno.EIO, errno.ECONNRESET, errno.EBADF)
"""The errors of a write when no reader is left: no user can mend them."""
_PIECE_BYTES = 256
"""A terminal that is ready for writing takes this much without blocking the writer."""
_SPELLED = {
    "√": "sqrt ",
    "×": "x",
    "…": "...",
    "‖": "||",
    "≥": ">=",
    "≤": "<=",
    "−": "-",
    "–": "-",
    "—": "-",
    "→": "->",
    "·": ".",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
    "±": "+-",
    "²": "2",
    "δ": "delta",
    "µ": "u",
}
"""Character → its replacement for a terminal whose encoding lacks it."""


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that an encoding lacks by ASCII. Returns the text and the position to go on from."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    plain = (
        _SPELLED.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in missing
    )
    return "".join(plain), error.end


SPELLED = "gossip_caffe.spelled"
codecs.register_error(SPELLED, _spell)


class OutputStream(io.TextIOBase):
    """A stream of text to a descriptor. No method raises OSError or UnicodeError; any thread may write.

    ``never_waits``: a write does not wait for a reader; unread output is kept, up to KEPT_BYTES, and tried again with
    the next write. ``failure``: the error that silenced the stream; None while it works.
    """

    encoding = "utf-8"  # the base class has this attribute, too, but it cannot be set there
    errors = SPELLED

    def __init__(self, descriptor: int, encoding: str) -> None:
        super().__init__()
        self.encoding = encoding
        self.never_waits = False
        self.failure: OSError | None = None
        self._descriptor = descriptor
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._lock = threading.RLock()
        self._may_wait = _is_pipe_or_terminal(descriptor)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """True if the descriptor is a terminal and the stream works."""
        return self.failure is None and os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Return True: a write is accepted even when no reader is left."""
        return True

    def write(self, text: str | bytes) -> int:
        """Write the text without its control characters, or keep it for later, or drop it. Returns its length.

        Raises only TypeError, for a value that is neither str nor bytes. Empty bytes are refused: click writes them to
        learn if the stream takes bytes. Other bytes, which completion scripts are made of, are written as they are.
        """
        if not isinstance(text, str) and not (isinstance(text, bytes) and text):
            raise TypeError(f"output is text, not {type(text).__name__}")
        self._write(printable(text).encode(self.encoding, SPELLED) if isinstance(text, str) else text)
        return len(text)

    def draw(self, text: str) -> None:
        """Write the text unchanged, with the control codes that draw on a terminal."""
        self._write(text.encode(self.encoding, SPELLED))

    def _write(self, data: bytes) -> None:
        with self._lock:
            if data and self.failure is None:
                self._keep(data)
                self._pass_on(0.0 if self.never_waits else None)

    def flush(self) -> None:
        """Do nothing: each write has passed on all that the reader takes."""

    def close(self) -> None:
        """Do nothing: a file that is opened later would get the descriptor, and the stream's output with it."""

    def settle(self) -> None:
        """Wait for a slow reader, until it has read nothing for LAST_WAIT_S."""
        with self._lock:
            self._pass_on(LAST_WAIT_S)

    def _keep(self, data: bytes) -> None:
        self._kept.append(data)
        self._kept_bytes += len(data)
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            self._kept_bytes -= len(self._kept.popleft())

    def _pass_on(self, wait_s: float | None) -> None:
        """Write the kept output, until the reader has taken nothing for ``wait_s`` (None: wait without limit)."""
        until = None if wait_s is None else time.monotonic() + wait_s
        while self._kept:
            data = self._kept[0]
            try:
                if until is not None and self._may_wait:
                    if not self._takes_more(max(0.0, until - time.monotonic())):
                        return
                    data = data[:_PIECE_BYTES]
                written = os.write(self._descriptor, data)
            except BlockingIOError:  # another process has made the terminal non-blocking
                if not self._takes_more(None if until is None else max(0.0, until - time.monotonic())):
                    return
                continue
            except OSError as error:
                self.failure = error
                self._kept.clear()
                self._kept_bytes = 0
                return
            self._kept_bytes -= written
            self._kept[0] = self._kept[0][written:]
            if not self._kept[0]:
                self._kept.popleft()
            until = None if wait_s is None else time.monotonic() + wait_s

    def _takes_more(self, wait_s: float | None) -> bool:
        poller = select.poll()
        poller.register(self._descriptor, select.POLLOUT)
        return bool(poller.poll(None if wait_s is None else wait_s * 1000))


class _Drawing(io.TextIOBase):
    """A view of an OutputStream that writes control codes unchanged."""

    def __init__(self, stream: OutputStream) -> None:
        super().__init__()
        self._stream = stream

    encoding = property(lambda self: self._stream.encoding)

    def fileno(self) -> int:
        """Return the descriptor of the stream."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """True if the stream's descriptor is a terminal and the stream works."""
        return self._stream.isatty()

    def writable(self) -> bool:
        """Return True, as the stream does."""
        return True

    def write(self, text: str) -> int:
        """Write the text with its control codes. Returns its length."""
        self._stream.draw(text)
        return len(text)


def drawing(stream: TextIO) -> TextIO:
    """Return a stream to the same terminal that writes control codes unchanged, for ``rich``."""
    return cast(TextIO, _Drawing(stream)) if isinstance(stream, OutputStream) else stream


def say(line: str, *, err: bool = False) -> None:
    """Print one line on stdout, or on stderr with ``err``. Line breaks within it are replaced, so it stays one."""
    click.echo(printable_line(line), err=err)


def open_streams() -> None:
    """Replace stdout and stderr by OutputStreams; a descriptor that is closed is first opened on /dev/null."""
    _fill_descriptors()
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PrintableFormatter())
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None or (stream is getattr(sys, f"__{name}__") and not isinstance(stream, OutputStream)):
            encoding = stream.encoding if stream is not None else "utf-8"
            if stream is not None:
                stream.flush()
            setattr(sys, name, cast(TextIO, OutputStream(descriptor, encoding or "utf-8")))


def never_wait_for_readers() -> None:
    """Let no later write wait for a reader: for commands whose work matters more than their output."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, OutputStream):
            stream.never_waits = True


def reader_is_gone() -> bool:
    """True if no program reads the output any more: a command that would print for ever ends."""
    if not isinstance(sys.stdout, OutputStream):
        return False
    if sys.stdout.failure is not None:
        return True
    poller = select.poll()
    poller.register(sys.stdout.fileno(), 0)  # only errors and the end of the reader are reported
    return any(state & (select.POLLERR | select.POLLHUP) for _, state in poller.poll(0))


def finish_streams(code: int, *, only_prints: bool) -> tuple[int, str]:
    """Wait for slow readers at a command's end. Returns its exit code, and a message when output was lost.

    ``code``: the exit code so far. A command that ``only_prints`` has failed when its output is lost: without a
    message when the reader has gone, as other Unix tools do.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, OutputStream):
            stream.settle()
    failure = sys.stdout.failure if isinstance(sys.stdout, OutputStream) else None
    if failure is None or not only_prints or code != ExitCode.OK:
        return code, ""
    if failure.errno in _CLOSED:
        return ExitCode.FAILED, ""
    return ExitCode.FAILED, f"cannot write the output ({failure.strerror}); free some disk space"


def _fill_descriptors() -> None:
    """Open those of the first three descriptors that are closed: a file opened later would become a standard stream."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != descriptor:
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
            os.set_inheritable(descriptor, True)


def _is_pipe_or_terminal(descriptor: int) -> bool:
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode)
