"""The state of an interactive view, its keys, and its page of text. Pure: a renderer draws the page, and sends keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum, auto

from gossip_caffe.observe.views.rows import Order, Table, table
from gossip_caffe.observe.views.watched import Watched
from gossip_caffe.observe.views.words import details, figures, happened, headline

KEYS = (
    ("q", "quit"),
    ("d", "drain"),
    ("k", "kill"),
    ("s", "sort"),
    ("enter", "inspect"),
    ("r", "reverse"),
)
"""The keys, the most important first: a narrow screen names as many as fit."""
FEWEST_HAPPENINGS = 3


class Wish(Enum):
    """The thing that a key asks for beyond the screen."""

    QUIT = auto()
    DRAIN = auto()  # ask the peer to leave
    FIND = auto()  # find the process of the peer: it may be killed after a confirmation
    KILL = auto()


@dataclass(frozen=True, slots=True)
class Question:
    """A question that "y" confirms, and every other key denies. ``wish``: DRAIN or KILL."""

    wish: Wish
    peer: str
    words: str


@dataclass(frozen=True, slots=True)
class ScreenState:
    """The state of the screen. ``selected``: a peer's name; ``inspected``: all about it is shown, not the table.

    ``note``: the result of the newest wish; "" for none.
    """

    selected: str = ""
    order: Order = field(default_factory=Order)
    inspected: bool = False
    question: Question | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Pressed:
    """The state after a key, and the wish of the key; None: it has none."""

    state: ScreenState
    wish: Wish | None = None
    peer: str = ""


def press(state: ScreenState, key: str, peers: Sequence[str]) -> Pressed:
    """Return the state after a key. ``peers``: the names in the order of the rows."""
    if state.question is not None:
        asked, state = state.question, replace(state, question=None)
        if key.lower() == "y":
            return Pressed(state, asked.wish, asked.peer)
        return Pressed(replace(state, note=f"nothing was done to {asked.peer}"))
    state = replace(selecting(state, peers), note="")
    if key == "q":
        return Pressed(state, Wish.QUIT)
    if key == "k" and peers:
        return Pressed(state, Wish.FIND, state.selected)
    return Pressed(_changed(state, key, peers))


def _changed(state: ScreenState, key: str, peers: Sequence[str]) -> ScreenState:
    """The state after a key that asks for nothing beyond the screen; an unknown key changes nothing."""
    match key:
        case "up" | "down" | "home" | "end" if peers:
            state = replace(state, selected=_moved(state.selected, key, peers))
        case "s":
            order = state.order.next()
            state = replace(state, order=order, note=f"sorted by {order.by}")
        case "r":
            state = replace(state, order=state.order.reversed())
        case "enter" if peers:
            state = replace(state, inspected=not state.inspected)
        case "escape":
            state = replace(state, inspected=False)
        case "d" if peers:
            words = f"drain {state.selected}? It shares its weights and leaves (y/n)"
            state = replace(state, question=Question(Wish.DRAIN, state.selected, words))
    return state


def selecting(state: ScreenState, peers: Sequence[str]) -> ScreenState:
    """Return the state with a selected peer that is there; the first if the selected one is gone."""
    if state.selected in peers:
        return state
    return replace(state, selected=peers[0] if peers else "", inspected=False)


def _moved(selected: str, key: str, peers: Sequence[str]) -> str:
    at = peers.index(selected)
    to = {"up": at - 1, "down": at + 1, "home": 0, "end": len(peers) - 1}[key]
    return peers[min(max(to, 0), len(peers) - 1)]


class Style(StrEnum):
    """The kind of a line; a renderer chooses its colours."""

    TITLE = "title"
    FIGURES = "figures"
    HEADING = "heading"
    PLAIN = "plain"
    SELECTED = "selected"
    ALARM = "alarm"
    QUESTION = "question"
    FOOTER = "footer"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a page. The renderer cuts it to the width of the terminal."""

    text: str
    style: Style = Style.PLAIN


def page(
    watched: Watched, state: ScreenState, width: int, height: int, *, unicode: bool = True
) -> list[Line]:
    """Return the page: ``height`` lines, of which none is longer than ``width`` in the table."""
    shown = table(watched, state.order, width, unicode=unicode)
    state = selecting(state, shown.peers)
    lines = head(watched)
    room = max(0, height - len(lines) - 1)
    body = inspected(watched, state) if state.inspected else _rows(shown, state, room)
    lines += body[:room]
    lines += happenings(watched, room - len(body))[: max(0, room - len(body))]
    lines += [Line("")] * (height - 1 - len(lines))
    return [*lines[: max(0, height - 1)], footer(state, width)]


def _rows(shown: Table, state: ScreenState, room: int) -> list[Line]:
    """The table, moved so that the selected row is in it; room for some happenings is left."""
    most = max(1, room - 2 - min(FEWEST_HAPPENINGS, max(0, room - 4)))
    at = shown.peers.index(state.selected) if state.selected in shown.peers else 0
    first = max(0, min(at - most + 1, len(shown.peers) - most))
    lines = [Line(shown.line(shown.headings), Style.HEADING)]
    for number in range(first, min(first + most, len(shown.rows))):
        style = Style.SELECTED if shown.peers[number] == state.selected else Style.PLAIN
        lines.append(Line(shown.line(shown.rows[number]), style))
    if (more := len(shown.rows) - most) > 0:
        lines.append(Line(f"{more} more"))
    return lines


def head(watched: Watched) -> list[Line]:
    """Return the two lines about the whole job."""
    return [
        Line(headline(watched.snapshot), Style.TITLE),
        Line(figures(watched), Style.ALARM if watched.away else Style.FIGURES),
    ]


def inspected(watched: Watched, state: ScreenState) -> list[Line]:
    """Return all that is known about the selected peer."""
    peer = next((peer for peer in watched.snapshot.peers if peer.peer == state.selected), None)
    found = details(peer) if peer is not None else []
    wide = max((len(name) for name, _ in found), default=0)
    return [Line(f"{name.ljust(wide)}  {value}") for name, value in found]


def happenings(watched: Watched, room: int) -> list[Line]:
    """Return the newest happenings that fit into ``room`` lines, the newest first, below a heading."""
    if room < 2 or not watched.happenings:
        return []
    newest = watched.happenings[:-room:-1]
    return [
        Line("EVENTS", Style.HEADING),
        *(Line(happened(entry), Style.ALARM if entry.alarming else Style.PLAIN) for entry in newest),
    ]


def footer(state: ScreenState, width: int) -> Line:
    """Return the last line: the question, the newest note, or the keys."""
    if state.question is not None:
        return Line(state.question.words, Style.QUESTION)
    if state.note:
        return Line(state.note, Style.QUESTION)
    named = ""
    for key, what in KEYS:
        longer = f"{named}  {key} {what}".strip()
        named = longer if len(longer) <= width else named
    return Line(named, Style.FOOTER)
