"""The charts of the page: each with its title, its drawing, and a table that says the same. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gossip_caffe.observe.report.chart import Series, lanes, lines
from gossip_caffe.observe.report.gathered import Gathered, GatheredLife
from gossip_caffe.observe.report.history import (
    EXCHANGE_KINDS,
    LIFE_KINDS,
    OWNER_KINDS,
    consensus_seen,
    consensus_tests,
    exchange_bars,
    lifelines,
    ownership,
    progress,
    shares,
)
from gossip_caffe.observe.report.many_peers import chosen, of, summed
from gossip_caffe.observe.report.tables import exchange_table, table

NARROW, WIDE = 640, 1300
"""The width of a chart that has half of a wide page, and of one that has all of it, in pixels."""
_SAMPLES = "samples trained by all peers"


@dataclass(frozen=True, slots=True)
class Card:
    """One chart. ``told``: a sentence on how to read it. ``draw`` and ``table`` return "" when there is nothing yet."""

    name: str
    title: str
    told: str
    draw: Callable[[Gathered], str]
    table: Callable[[Gathered], str]
    is_wide: bool = False


def parts_of(gathered: Gathered) -> dict[str, str]:
    """The HTML of every chart and table, by the name of its part."""
    empty = f'<p class="empty">{"nothing yet" if gathered.is_live else "the logs have none"}</p>'
    parts = {card.name: card.draw(gathered) or empty for card in CARDS}
    return parts | {f"{card.name}-table": card.table(gathered) or empty for card in CARDS}


# ── drawings ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _peers(gathered: Gathered) -> str:
    rows = of(chosen(gathered), lifelines(gathered))
    return lanes("lifelines of the peers", rows, gathered.length_s, LIFE_KINDS, width=WIDE)


def _owners(gathered: Gathered) -> str:
    rows = of(chosen(gathered), ownership(gathered))
    return lanes("owners of chunks", rows, gathered.length_s, OWNER_KINDS, width=NARROW)


def _exchanges(gathered: Gathered) -> str:
    rows = of(chosen(gathered), exchange_bars(gathered))
    most = max((bar.stop for row in rows for bar in row.bars), default=0.0)
    return (
        lanes("exchanges of each peer", rows, most, EXCHANGE_KINDS, "exchanges", width=NARROW) if most else ""
    )


def _loss(gathered: Gathered) -> list[Series]:
    return list(summed(progress(gathered, "loss")))


def _rate(gathered: Gathered) -> list[Series]:
    return list(summed(progress(gathered, "learning_rate")))


def _distance(gathered: Gathered) -> list[Series]:
    return [*consensus_seen(gathered), *summed(progress(gathered, "distance"))]


def _settled(gathered: Gathered) -> list[Series]:
    return list(summed(shares(gathered)))


def _line_card(
    name: str,
    title: str,
    told: str,
    series: Callable[[Gathered], list[Series]],
    unit: str = "seconds",
    *,
    logarithmic: bool = False,
    guides: Sequence[tuple[float, str]] = (),
) -> Card:
    def draw(gathered: Gathered) -> str:
        label = f"{title.lower()} over {unit}"
        return lines(label, series(gathered), unit, logarithmic=logarithmic, guides=guides, width=NARROW)

    return Card(name, title, told, draw, lambda gathered: _series_table(series(gathered), unit))


# ── tables ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _series_table(series: Sequence[Series], unit: str) -> str:
    rows = []
    for one in series:
        values = [y for _, y in one.points]
        at, newest = one.points[-1]
        rows.append((one.name, f"{newest:.6g}", f"{at:,.0f}", f"{min(values):.6g}", f"{max(values):.6g}"))
    return table(("line", "newest", f"at ({unit})", "lowest", "highest"), rows)


def state_of(gathered: Gathered, life: GatheredLife) -> str:
    """The state of a peer: that of its process while it runs, else how it ended."""
    if life.left is not None:
        return "left"
    return life.state if gathered.runs(life) else "killed"


def _peers_table(gathered: Gathered) -> str:
    named = chosen(gathered)
    rows = []
    for lane in of(named, lifelines(gathered)):
        newest = gathered.peers[lane.name][-1]
        marks = Counter(mark.kind for mark in lane.marks)
        happened = ", ".join(f"{kind} {number}×" if number > 1 else kind for kind, number in marks.items())
        since = f"{newest.began_at - gathered.began_at:.1f}"
        rows.append((lane.name, state_of(gathered, newest), since, happened))
    return table(("peer", "now", "started at (s)", "what happened"), rows)


def _shards_table(gathered: Gathered) -> str:
    rows = []
    for lane in of(chosen(gathered), ownership(gathered)):
        lives = gathered.peers[lane.name]
        rows.append(
            (lane.name, f"{len(lives[-1].chunks):,}", f"{sum(life.settled_chunks for life in lives):,}")
        )
    return table(("peer", "chunks that it owns", "chunks that it settled"), rows)


def _exchanges_table(gathered: Gathered) -> str:
    return exchange_table(gathered, chosen(gathered))


CARDS = (
    Card(
        "peers", "Peers", "Each peer's life: when it joined, trained, was killed or left.",
        _peers, _peers_table, is_wide=True,
    ),
    _line_card("loss", "Loss", "The training loss of each peer's own batches.", _loss),
    _line_card(
        "tests", "Test of the consensus", "The TEST phase on the average of the living peers, such as its accuracy.",
        consensus_tests, _SAMPLES,
    ),
    _line_card(
        "distance", "Consensus distance",
        "How far the peers' weights are apart: below 1e-3 all is well, above 1e-2 they learn apart.",
        _distance, logarithmic=True, guides=((1e-3, "well"), (1e-2, "apart")),
    ),
    _line_card("rate", "Learning rate", "The rate of the job's schedule, times √peers by default.", _rate),
    Card(
        "owners", "Shards", "When each peer owned chunks of the data. Those of a killed peer go to the others.",
        _owners, _shards_table,
    ),
    Card(
        "exchanges", "Exchanges", "How the exchanges ended that each peer offered or answered.",
        _exchanges, _exchanges_table,
    ),
    _line_card("settled", "Chunks settled", "Chunks whose learning has left their peer.", _settled),
)  # fmt: skip
"""All charts, in the order of the page. The keys 1 to 9 lead to them."""
