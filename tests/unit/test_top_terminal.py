"""The terminal is as it was, however a view ends: by a key, by Ctrl-C, by a signal, by a defect."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cluster_run import ROOT, wait_for
from tests.optional import missing

DRAWN = b"job mnist"
SCRIPT = """
import asyncio, sys
from gossip_caffe.cli.terminal.streams import open_streams
from gossip_caffe.cli.top.keyboard import Interrupted
from gossip_caffe.cli.top.restoring import restored
from gossip_caffe.cli.top.session import Session
from gossip_caffe.cli.top.watching import Watching
from gossip_caffe.clock import SystemClock
from gossip_caffe.observe.views.snapshot import PeerView, Snapshot
from gossip_caffe.observe.views.watched import begun

view, fails = sys.argv[1:]
snapshot = Snapshot("mnist", 0.0, (PeerView("p\\x1b]0;evil\\x07", "[red]training", "i"),), 100)

class Seen(Watching):
    looks = 0
    async def look(self):
        Seen.looks += 1
        if fails and Seen.looks > 2:
            raise ZeroDivisionError("a defect")

async def main():
    session = Session(Seen(None, None, SystemClock(), begun(snapshot)), None)
    if view == "rich":
        from gossip_caffe.cli.top import rich_view
        await restored(rich_view.show(session))
    else:
        from gossip_caffe.cli.top import textual_view
        app = textual_view.TopApp(session)
        await restored(textual_view.show(app), stop=app.exit)

open_streams()
try:
    asyncio.run(main())
except Interrupted:
    sys.exit(130)
"""


@dataclass
class Terminal:
    """A pseudo-terminal with a view in it. ``shown``: all that the view has written."""

    process: subprocess.Popen[bytes]
    master: int
    slave: int
    shown: bytearray = field(default_factory=bytearray)

    def read(self) -> None:
        try:
            while data := os.read(self.master, 65536):
                self.shown += data
        except OSError:
            pass  # the last process at the terminal has ended


@pytest.fixture(params=["textual", "rich"])
def view(request: pytest.FixtureRequest) -> str:
    if request.param == "textual" and (reason := missing("textual")):
        pytest.skip(reason)
    return str(request.param)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (lambda terminal: os.write(terminal.master, b"q"), 0),
        (lambda terminal: os.write(terminal.master, b"\x03"), 130),
        (lambda terminal: terminal.process.send_signal(signal.SIGTERM), -signal.SIGTERM),
        (lambda terminal: terminal.process.send_signal(signal.SIGHUP), -signal.SIGHUP),
        (None, 1),
    ],
    ids=["q", "ctrl-c", "sigterm", "sighup", "defect"],
)
def test_a_view_leaves_the_terminal_as_it_was(
    view: str, end: Callable[[Terminal], object] | None, code: int, tmp_path: Path
) -> None:
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, view, "" if end is not None else "fails"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"},
        start_new_session=True,
    )
    terminal = Terminal(process, master, slave)
    reader = threading.Thread(target=terminal.read, daemon=True)
    reader.start()
    try:
        wait_for("the view is drawn", lambda: DRAWN in terminal.shown or process.poll() is not None)
        if end is not None:
            assert termios.tcgetattr(slave) != before
            end(terminal)
        assert process.wait(120) == code, bytes(terminal.shown[-2000:])
        assert termios.tcgetattr(slave) == before
    finally:
        process.kill()
        process.wait()
        os.close(slave)
        reader.join(60)
        os.close(master)
    shown = bytes(terminal.shown)
    assert b"evil\x07" not in shown  # a name from etcd does not steer the terminal
    assert b"[red]training" in shown  # nor is it markup
    for on, off in ((b"\x1b[?1049h", b"\x1b[?1049l"), (b"\x1b[?25l", b"\x1b[?25h")):
        assert on in shown
        assert shown.rindex(off) > shown.rindex(on)
    assert (b"ZeroDivisionError" in shown) == (end is None)
