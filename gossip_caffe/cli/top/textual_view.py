"""``top`` with textual: the peers as a table for mouse and keys, and the happenings below it."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual import events
from textual.app import App, ComposeResult
from textual.widgets import DataTable, Static

from gossip_caffe.cli.top.keyboard import INTERRUPT, Interrupted
from gossip_caffe.cli.top.session import Session
from gossip_caffe.observe.views.rows import GAP, Table, table
from gossip_caffe.observe.views.screen import Line, Style, footer, happenings, head, inspected
from gossip_caffe.printable import printable_line

COLOURS = {
    Style.TITLE: "bold",
    Style.HEADING: "bold",
    Style.ALARM: "red",
    Style.QUESTION: "bold yellow",
    Style.FOOTER: "dim",
}


class TopApp(App[None]):
    """The view as an application. ``interrupted``: Ctrl-C ended it. ``failure``: the defect that ended it."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { layout: vertical; }
    Static { text-wrap: nowrap; text-overflow: ellipsis; }
    #head { height: 2; }
    #peers { height: auto; max-height: 60%; scrollbar-size: 1 1; }
    #inspected { height: auto; max-height: 80%; display: none; }
    #happenings { height: 1fr; }
    #foot { height: 1; dock: bottom; }
    """
    BINDINGS: ClassVar = []

    def __init__(self, session: Session) -> None:
        super().__init__(ansi_color=True)
        self.session = session
        self.interrupted = False
        self.failure: Exception | None = None
        self._shown: Table | None = None

    def compose(self) -> ComposeResult:
        """Yield the widgets, from the top down."""
        yield Static(id="head")
        peers: DataTable[Text] = DataTable(id="peers", cursor_type="row", cell_padding=0, zebra_stripes=False)
        peers.can_focus = False  # all keys go to ``on_key``
        yield peers
        yield Static(id="inspected")
        yield Static(id="happenings")
        yield Static(id="foot")

    def on_mount(self) -> None:
        """Begin to look at the job."""
        self.draw()
        self.run_worker(self._look(), name="looking", exit_on_error=False)

    async def _look(self) -> None:
        while True:
            try:
                await self.session.look()
                self.draw()
            except (
                Exception
            ) as error:  # the outermost edge of this task: the command raises it after the screen
                self._fail(error)
                return
            await self.session.watching.clock.sleep(self.session.watching.pause_s)

    def _fail(self, error: Exception) -> None:
        self.failure = error
        self.exit()

    async def on_key(self, event: events.Key) -> None:
        """Carry out a key."""
        event.stop()
        event.prevent_default()
        if event.key == INTERRUPT:
            self.interrupted = True
            self.exit()
            return
        key = event.character if event.is_printable and event.character else event.key
        try:
            if not await self.session.press(key):
                self.exit()
            self.draw()
        except Exception as error:  # the outermost edge of the screen: the command raises it afterwards
            self._fail(error)

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Select the peer that the mouse has chosen."""
        if self._shown is not None and 0 <= event.cursor_row < len(self._shown.peers):
            self.session.select(self._shown.peers[event.cursor_row])

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the column that the mouse has chosen."""
        self.session.sort_by(str(event.column_key.value))
        self.draw()

    def on_resize(self) -> None:
        """Draw the page again in the new size."""
        self.draw()

    def draw(self) -> None:
        """Bring all widgets up to date."""
        watched, state = self.session.watching.watched, self.session.state
        width, height = self.size
        self.query_one("#head", Static).update(_text(head(watched)))
        self.query_one("#foot", Static).update(_text([footer(state, width)]))
        self.query_one("#happenings", Static).update(_text(happenings(watched, height)))
        peers = self.query_one("#peers", DataTable)
        peers.display = not state.inspected
        about = self.query_one("#inspected", Static)
        about.display = state.inspected
        about.update(_text(inspected(watched, state)))
        self._fill(peers, table(watched, state.order, width - 2 * GAP), state.selected)

    def _fill(self, peers: DataTable[Text], shown: Table, selected: str) -> None:
        self._shown = shown
        with peers.prevent(DataTable.RowHighlighted):
            peers.clear(columns=True)
            for heading, width in zip(shown.headings, shown.widths, strict=True):
                peers.add_column(heading, width=width + GAP, key=heading)
            for cells in shown.rows:
                peers.add_row(*(Text(printable_line(cell)) for cell in shown.aligned(cells)))
            if selected in shown.peers:
                peers.move_cursor(row=shown.peers.index(selected), animate=False)


def _text(lines: list[Line]) -> Text:
    """Return lines as rich text, each cut at the width of its widget."""
    text = Text(no_wrap=True, overflow="ellipsis", end="")
    for number, line in enumerate(lines):
        text.append(("\n" if number else "") + printable_line(line.text), style=COLOURS.get(line.style, ""))
    return text


async def show(app: TopApp) -> None:
    """Show the view until a key ends it. Raises Interrupted at Ctrl-C."""
    await app.run_async()
    if app.failure is not None:
        raise app.failure
    if app.interrupted:
        raise Interrupted
