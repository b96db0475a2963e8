"""The streams of a command fail without ending it: readers that end or sleep, full disks, small encodings."""

from __future__ import annotations

import errno
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.cli.terminal import streams
from gossip_caffe.cli.terminal.machine_problems import problem_of
from gossip_caffe.cli.terminal.streams import KEPT_BYTES, SPELLED, OutputStream, finish_streams, open_streams
from gossip_caffe.errors import ExitCode


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe whose ends are closed afterwards, when they are not yet."""
    reader, writer = os.pipe()
    yield reader, writer
    for end in (reader, writer):
        try:
            os.close(end)
        except OSError:
            pass


def test_output_reaches_its_reader_at_once(pipe: tuple[int, int]) -> None:
    stream = OutputStream(pipe[1], "utf-8")
    assert stream.write("√2\n") == 3
    assert os.read(pipe[0], 100).decode() == "√2\n"
    assert stream.writable()
    assert stream.fileno() == pipe[1]
    assert not stream.isatty()


def test_a_reader_that_has_gone_makes_it_silent(pipe: tuple[int, int]) -> None:
    stream = OutputStream(pipe[1], "utf-8")
    os.close(pipe[0])
    for _ in range(3):
        assert stream.write("hello\n") == 6
    assert stream.failure is not None
    assert stream.failure.errno == errno.EPIPE


def test_a_full_disk_makes_it_silent() -> None:
    with Path("/dev/full").open("w") as full:
        stream = OutputStream(full.fileno(), "utf-8")
        stream.write("hello\n")
        stream.flush()
    assert stream.failure is not None
    assert stream.failure.errno == errno.ENOSPC


def test_a_terminal_that_has_closed_makes_it_silent_and_is_no_terminal_any_more() -> None:
    master, slave = pty.openpty()
    stream = OutputStream(slave, "utf-8")
    assert stream.isatty()
    os.close(master)
    stream.write("hello\n")
    assert stream.failure is not None
    assert stream.failure.errno == errno.EIO
    assert not stream.isatty()
    os.close(slave)


def test_a_closed_descriptor_makes_it_silent() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    stream = OutputStream(writer, "utf-8")
    stream.write("hello")
    assert stream.failure is not None


def test_nothing_waits_for_a_reader_that_sleeps_where_never_wait_for_readers(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "LAST_WAIT_S", 0.01)
    stream = OutputStream(pipe[1], "utf-8")
    stream.never_waits = True
    lines = [f"{number:063d}\n" for number in range(2 * KEPT_BYTES // 64)]
    for line in lines:
        stream.write(line)  # far more than a pipe holds: this would wait for ever
    stream.settle()
    heard = bytearray()
    while len(heard) < 64 * 100:
        heard += os.read(pipe[0], 64 * 100 - len(heard))
    assert heard.decode() == "".join(lines[:100])
    while True:  # what it has kept comes as soon as somebody reads
        stream.write("")
        stream.settle()
        heard += os.read(pipe[0], 1 << 16)
        if heard.endswith(lines[-1].encode()):
            break
    assert len(heard) < 64 * len(lines)  # the oldest of what nobody read was dropped
    assert stream.failure is None


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", "√N × 2 … ≥ ü 字"),
        ("iso-8859-1", "sqrt N × 2 ... >= ü \\u5b57"),
        ("ascii", "sqrt N x 2 ... >= \\xfc \\u5b57"),
        ("koi8-r", "√N x 2 ... ≥ \\xfc \\u5b57"),
    ],
)
def test_letters_that_an_alphabet_lacks_are_spelled(pipe: tuple[int, int], encoding: str, shown: str) -> None:
    OutputStream(pipe[1], encoding).write("√N × 2 … ≥ ü 字")
    assert os.read(pipe[0], 1000).decode(encoding) == shown


@given(
    st.text(alphabet=st.characters(), max_size=50),
    st.sampled_from(["ascii", "utf-8", "latin-1", "cp1252", "big5"]),
)
def test_any_text_can_be_said_in_any_alphabet(text: str, encoding: str) -> None:
    text.encode(encoding, SPELLED)


def test_a_stream_of_words_is_none_of_bytes() -> None:
    with pytest.raises(TypeError, match="output is text"):
        OutputStream(1, "utf-8").write(b"")


@pytest.mark.parametrize(
    ("number", "only_prints", "code", "ends", "said"),
    [
        (errno.EPIPE, True, ExitCode.OK, ExitCode.FAILED, ""),
        (errno.EIO, True, ExitCode.OK, ExitCode.FAILED, ""),
        (
            errno.ENOSPC,
            True,
            ExitCode.OK,
            ExitCode.FAILED,
            "cannot write the output (No space left on device)",
        ),
        (errno.ENOSPC, False, ExitCode.OK, ExitCode.OK, ""),
        (errno.EPIPE, False, ExitCode.INTERRUPTED, ExitCode.INTERRUPTED, ""),
        (errno.EPIPE, True, ExitCode.NOT_FOUND, ExitCode.NOT_FOUND, ""),
        (0, True, ExitCode.OK, ExitCode.OK, ""),
    ],
)
def test_lost_words_are_a_failure_only_where_nothing_else_was_asked(
    monkeypatch: pytest.MonkeyPatch, number: int, only_prints: bool, code: int, ends: int, said: str
) -> None:
    stream = OutputStream(1, "utf-8")
    stream.failure = OSError(number, os.strerror(number)) if number else None
    monkeypatch.setattr(sys, "stdout", stream)
    got, line = finish_streams(code, only_prints=only_prints)
    assert (got, line.partition(";")[0]) == (ends, said)


def test_streams_that_somebody_else_has_replaced_are_left_alone() -> None:
    before = sys.stdout
    assert before is not sys.__stdout__  # pytest has
    open_streams()
    assert sys.stdout is before


_CLOSED = """
import os, sys
for number in {closed}:
    os.close(number)
    setattr(sys, ("stdin", "stdout", "stderr")[number], None)
from gossip_caffe.cli.terminal.streams import open_streams
open_streams()
taken = os.open("/dev/null", os.O_RDONLY)
print("words"); print("words", file=sys.stderr)
open(sys.argv[1], "w").write(str(taken))
"""


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (1, 2), (0, 1, 2)])
def test_a_closed_stream_is_nobodys_file(tmp_path: Path, closed: tuple[int, ...]) -> None:
    script = _CLOSED.format(closed=closed)
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "taken")], check=True, timeout=60)
    assert int((tmp_path / "taken").read_text()) > 2


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/x/y"),
            "No space left on device at /x/y; free some disk space",
        ),
        (
            OSError(errno.EMFILE, "Too many open files"),
            "Too many open files; raise the limit on open files with",
        ),
        (MemoryError(), "there is not enough memory; free some memory"),
        (RuntimeError("can't start new thread"), "cannot start another thread; raise the limit on processes"),
        (BlockingIOError(errno.EAGAIN, "x"), "cannot start another process; raise the limit on processes"),
        (FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"), "set $TMPDIR"),
        (
            ExceptionGroup("x", [ValueError(), OSError(errno.EROFS, "Read-only file system", b"/x")]),
            "at /x; use a folder",
        ),
    ],
)
def test_what_a_machine_lacks_is_one_line(error: Exception, said: str) -> None:
    problem = problem_of(error)
    assert problem is not None
    assert said in str(problem)
    assert problem.exit_code == ExitCode.ENVIRONMENT


def test_what_an_error_came_of_counts() -> None:
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise ValueError("x")  # noqa: B904 - as a library does
    except ValueError as caught:
        error: Exception = caught
    assert problem_of(error) is not None
    assert problem_of(ValueError("x")) is None
    assert problem_of(FileNotFoundError(2, "x")) is None
