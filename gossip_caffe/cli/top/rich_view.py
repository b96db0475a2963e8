"""``top`` with rich: the page as it is, on a screen of its own."""

from __future__ import annotations

import asyncio
import signal
import sys

from rich.console import Console
from rich.live import Live
from rich.text import Text

from gossip_caffe.background import within
from gossip_caffe.cli.terminal.output import terminal
from gossip_caffe.cli.top.keyboard import INTERRUPT, Interrupted, keyboard
from gossip_caffe.cli.top.session import Session
from gossip_caffe.observe.views.screen import Style, page
from gossip_caffe.printable import printable_line

COLOURS = {
    Style.TITLE: "bold",
    Style.FIGURES: "",
    Style.HEADING: "bold dim",
    Style.PLAIN: "",
    Style.SELECTED: "reverse",
    Style.ALARM: "red",
    Style.QUESTION: "bold yellow",
    Style.FOOTER: "dim",
}


DRAW = ""
"""No key: the page has changed, or the terminal has another size."""


async def show(session: Session) -> None:
    """Show the view until a key ends it. Raises Interrupted at Ctrl-C."""
    typed: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGWINCH, typed.put_nowait, DRAW)
    try:
        async with within(_look(session, typed), _keys(session, typed)) as (looking, typing):
            await asyncio.wait({looking, typing}, return_when=asyncio.FIRST_COMPLETED)
            for ended in (looking, typing):
                if ended.done():
                    ended.result()
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)


async def _look(session: Session, typed: asyncio.Queue[str]) -> None:
    """Look at the job again and again; each look lets the page be drawn."""
    while True:
        await session.look()
        typed.put_nowait(DRAW)
        await session.watching.clock.sleep(session.watching.pause_s)


async def _keys(session: Session, typed: asyncio.Queue[str]) -> None:
    """Draw the page, and carry out the keys."""
    console = terminal()
    with (
        keyboard(sys.stdin.fileno(), typed.put_nowait),
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        while True:
            live.update(drawn(session, console), refresh=True)
            key = await typed.get()
            if key == INTERRUPT:
                raise Interrupted
            if key != DRAW and not await session.press(key):
                return


def drawn(session: Session, console: Console) -> Text:
    """Return the page as rich draws it, exactly as large as the terminal."""
    width, height = console.size
    unicode = "utf" in (console.encoding or "").lower()
    text = Text(no_wrap=True, overflow="ellipsis", end="")
    lines = page(session.watching.watched, session.state, width, height, unicode=unicode)
    for number, line in enumerate(lines):
        shown = Text(printable_line(line.text), style=COLOURS[line.style])
        shown.truncate(width, overflow="ellipsis", pad=line.style is Style.SELECTED)
        text.append_text(shown)
        if number < len(lines) - 1:
            text.append("\n")
    return text
