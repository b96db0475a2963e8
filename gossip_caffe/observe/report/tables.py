"""Tables beside the charts, as HTML. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gossip_caffe.observe.report.chart import shown
from gossip_caffe.observe.report.gathered import Gathered
from gossip_caffe.observe.report.history import outcomes


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts, the first column of which names the rows; "" without rows."""
    body = "".join(
        f'<tr><th scope="row">{shown(first)}</th>{"".join(f"<td>{shown(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    heads = "".join(f'<th scope="col">{shown(name)}</th>' for name in head)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>" if body else ""


def exchange_table(gathered: Gathered, peers: frozenset[str]) -> str:
    """A table of how the exchanges of the given peers, and of all, ended."""
    counted = outcomes(gathered)
    columns = sorted({kind for _, kinds in counted for kind in kinds})
    if not columns:
        return '<p class="unseen">there were no exchanges</p>'
    head = "".join(f"<th>{shown(kind)}</th>" for kind in columns)
    rows = "".join(
        f"<tr><td>{shown(peer)}</td>{_cells([kinds[kind] for kind in columns])}</tr>"
        for peer, kinds in counted
        if peer in peers
    )
    total = _cells([sum(kinds[kind] for _, kinds in counted) for kind in columns])
    return f"<table><tr><th>peer</th>{head}</tr>{rows}<tr><th>all</th>{total}</tr></table>"


def _cells(numbers: Sequence[int]) -> str:
    return "".join(f'<td class="n">{number:,}</td>' for number in numbers)
