"""The table of peers: its columns, their order, and the columns that fit into a width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gossip_caffe.observe.views.snapshot import PeerView, natural
from gossip_caffe.observe.views.sparkline import sparkline
from gossip_caffe.observe.views.watched import Watched

LONGEST_NAME = 16
TREND = "TREND"
SHORTEST_TREND, LONGEST_TREND = 6, 24
GAP = 1
MOST_SECONDS = 1e8
Figure = float | str | None


@dataclass(frozen=True, slots=True)
class Column:
    """One column. ``figure``: the value that it sorts by. ``keep``: columns with a low number stay the longest.

    ``descending``: its highest value comes first.
    """

    heading: str
    cell: Callable[[PeerView], str]
    figure: Callable[[PeerView], Figure]
    keep: int
    right: bool = True
    descending: bool = True


def _loss(peer: PeerView) -> float | None:
    return peer.status.loss if peer.status is not None else None


def _distance(peer: PeerView) -> float | None:
    return peer.status.consensus_distance if peer.status is not None else None


def _exchanged(peer: PeerView) -> float | None:
    return peer.status.exchanged_s_ago if peer.status is not None else None


def _exchange(peer: PeerView) -> str:
    since_s = _exchanged(peer)
    if since_s is None or peer.status is None:
        return ""
    return f"{brief_duration(since_s)} {shortened(peer.status.exchanged_with, LONGEST_NAME // 2)}"


def _share(peer: PeerView) -> str:
    return "" if peer.share is None else f"{peer.share:.0%}"


def _chunks(peer: PeerView) -> str:
    return "" if peer.status is None else f"{peer.status.chunks_owned}/{peer.status.chunks_done:,}"


def _state(peer: PeerView) -> str:
    idle = peer.status is not None and peer.trains and peer.status.stalled_share > 0.5
    return "idle" if idle else peer.state


COLUMNS = (
    Column("PEER", lambda peer: shortened(peer.peer, LONGEST_NAME), lambda _: None, 0, right=False),
    Column("STATE", _state, lambda peer: peer.state, 1, right=False, descending=False),
    Column("DEV", lambda peer: peer.device, lambda peer: peer.device, 8, right=False, descending=False),
    Column(
        "ITER",
        lambda peer: f"{peer.status.iteration:,}" if peer.status is not None else "",
        lambda peer: peer.status.iteration if peer.status is not None else None,
        4,
    ),
    Column(
        "SMP/S",
        lambda peer: f"{peer.status.samples_per_s:,.0f}" if peer.status is not None else "",
        lambda peer: peer.status.samples_per_s if peer.status is not None else None,
        2,
    ),
    Column("LOSS", lambda peer: "" if (loss := _loss(peer)) is None else f"{loss:.4f}", _loss, 3),
    Column(TREND, lambda _: "", _loss, 5, right=False),
    Column("SHARE", _share, lambda peer: peer.share, 9),
    Column("CHUNKS", _chunks, lambda peer: peer.status.chunks_done if peer.status is not None else None, 10),
    Column("EXCHANGE", _exchange, _exchanged, 6, right=False),
    Column(
        "DIST",
        lambda peer: "" if (distance := _distance(peer)) is None else f"{distance:.0e}",
        _distance,
        7,
    ),
)
"""SMP/S: samples per second. SHARE: the planned part of the data. CHUNKS: owned and done. EXCHANGE: the time since the
last one, and its partner. DIST: the consensus distance."""
SORTED_BY = ("PEER", "SMP/S", "LOSS", "ITER", "EXCHANGE", "DIST", "STATE")
_BY_HEADING = {column.heading: column for column in COLUMNS}


@dataclass(frozen=True, slots=True)
class Order:
    """The order of the rows: by one of SORTED_BY, its usual way or the other way round."""

    by: str = "PEER"
    reverse: bool = False

    def next(self) -> Order:
        """Return the order by the next column."""
        return Order(SORTED_BY[(SORTED_BY.index(self.by) + 1) % len(SORTED_BY)])

    def reversed(self) -> Order:
        """Return the other way round."""
        return replace(self, reverse=not self.reverse)

    def arrange(self, peers: Sequence[PeerView]) -> list[PeerView]:
        """Sort the peers. Those without a value come last, and equal ones in the order of their names."""
        by_name = sorted(peers, key=lambda peer: natural(peer.peer))
        column = _BY_HEADING[self.by]
        if column.heading == "PEER":
            return by_name[::-1] if self.reverse else by_name
        known = [peer for peer in by_name if column.figure(peer) is not None]
        down = column.descending != self.reverse
        known.sort(key=lambda peer: _sortable(column.figure(peer)), reverse=down)
        return known + [peer for peer in by_name if column.figure(peer) is None]


def _sortable(figure: Figure) -> tuple[float, str]:
    return (0.0, figure) if isinstance(figure, str) else (float(figure or 0.0), "")


@dataclass(frozen=True, slots=True)
class Table:
    """Cells that fit a width. ``peers``: the names of the rows' peers."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    peers: tuple[str, ...]
    right: tuple[bool, ...]
    widths: tuple[int, ...]

    def aligned(self, cells: Sequence[str]) -> list[str]:
        """Return the cells of one row, each as wide as its column."""
        return [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, self.widths, self.right, strict=True)
        ]

    def line(self, cells: Sequence[str]) -> str:
        """Return the cells of one row as one line."""
        return (" " * GAP).join(self.aligned(cells)).rstrip()


def table(watched: Watched, order: Order, width: int, *, unicode: bool = True) -> Table:
    """Return the table of the living peers, with the columns that fit into ``width`` characters."""
    peers = order.arrange(watched.snapshot.peers)
    cells = {column.heading: [column.cell(peer) for peer in peers] for column in COLUMNS}
    wide = {heading: max(map(len, (heading, *found))) for heading, found in cells.items()}
    courses = [watched.losses.get(peer.incarnation, ()) for peer in peers]
    wide[TREND] = SHORTEST_TREND
    if all(len(course) < 2 for course in courses):
        del wide[TREND]
    chosen = _fitting(wide, width)
    if TREND in chosen:
        left = width - sum(wide[heading] + GAP for heading in chosen) + GAP
        wide[TREND] = min(LONGEST_TREND, SHORTEST_TREND + max(0, left))
        cells[TREND] = [sparkline(course, wide[TREND], unicode=unicode) for course in courses]
    return Table(
        headings=tuple(chosen),
        rows=tuple(tuple(cells[heading][row] for heading in chosen) for row in range(len(peers))),
        peers=tuple(peer.peer for peer in peers),
        right=tuple(_BY_HEADING[heading].right for heading in chosen),
        widths=tuple(wide[heading] for heading in chosen),
    )


def _fitting(wide: dict[str, int], width: int) -> list[str]:
    """The headings of the columns that fit, in the order of COLUMNS: the most important ones."""
    chosen: set[str] = set()
    used = -GAP
    for column in sorted((_BY_HEADING[heading] for heading in wide), key=lambda column: column.keep):
        needed = wide[column.heading] + GAP
        if used + needed <= width or not chosen:
            chosen.add(column.heading)
            used += needed
    return [column.heading for column in COLUMNS if column.heading in chosen]


def shortened(text: str, most: int) -> str:
    """Cut a text to ``most`` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def brief_duration(seconds: float) -> str:
    """Format seconds in at most four characters: "0.4s", "12s", "3m", "2h", "5d". A status may hold any number."""
    if not 0 <= seconds < MOST_SECONDS:
        return "?"
    if seconds < 1:
        return f"{seconds:.1f}s"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"
