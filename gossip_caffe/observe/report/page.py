"""A run as one self-contained HTML page: it loads no network resource, no script and no font."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from gossip_caffe.observe.checker.run import Run
from gossip_caffe.observe.checker.verdict import Finding, Verdict, verdict_on
from gossip_caffe.observe.report.chart import lanes, lines
from gossip_caffe.observe.report.history import (
    KINDS,
    SHARES,
    Times,
    consensus_seen,
    consensus_tests,
    lifelines,
    outcomes,
    ownership,
    progress,
    shares,
)
from gossip_caffe.observe.report.many_peers import chosen, of, summed

_STYLE = """
body{font:14px/1.45 system-ui,sans-serif;color:#222;max-width:1000px;margin:2em auto;padding:0 1em}
h1{font-size:1.5em}h2{font-size:1.1em;margin:2em 0 .4em}svg{width:100%;height:auto;display:block}
svg text{font:10px system-ui,sans-serif;fill:#555}.rule{stroke:#eee}.axis{stroke:#999}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:3px 8px;border-bottom:1px solid #eee;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums}.holds{color:#00734f}.broken{color:#c1121f;font-weight:bold}
.unseen{color:#777}.legend{margin:.2em 0;color:#555;font-size:12px}.legend span{margin-right:1.2em;white-space:nowrap}
.legend i{display:inline-block;width:10px;height:10px;margin-right:4px}
pre{background:#f6f6f6;padding:.6em;overflow-x:auto;font-size:11px}
"""
_MOST_LINES = 40


def report_of(run_dir: Path, title: str = "", job: str = "") -> str:
    """The page for the logs in ``run_dir``/events. ``job``: where they hold several, "" for the only one.

    Raises NotFound when there are no logs of it, and UsageError when none of several jobs is named.
    """
    run = Run.of_folder(run_dir, job=job)
    return page(run, verdict_on(run), title or f"Run {run_dir.absolute().name}")


def page(run: Run, found: Verdict, title: str) -> str:
    """The page for a history and its verdict."""
    times = Times(run)
    peers = chosen(run, times)
    distance = [*consensus_seen(run, times), *summed(progress(run, times, "distance"))]
    charts = (
        ("Peers", lanes("lifelines of the peers", of(peers, lifelines(run, times)), times.length, KINDS)),
        (
            "Owners of chunks",
            lanes("ownership of chunks", of(peers, ownership(run, times)), times.length, SHARES),
        ),
        ("Chunks settled", lines("chunks settled by each peer", summed(shares(run, times)), "seconds")),
        ("Loss", lines("training loss of each peer", summed(progress(run, times, "loss")), "seconds")),
        (
            "Test of the consensus",
            lines("test outputs", consensus_tests(run), "samples trained by all peers"),
        ),
        ("Consensus distance", lines("consensus distance", distance, "seconds", logarithmic=True)),
        ("Learning rate", lines("learning rate", summed(progress(run, times, "learning_rate")), "seconds")),
    )
    sections = [
        ("Invariants", _invariants(found.findings)),
        ("Figures", _figures(found)),
        *((name, chart or '<p class="unseen">the logs have no data for this</p>') for name, chart in charts),
        ("Exchanges", _exchanges(run, peers)),
    ]
    said = "finished" if run.finished else "not finished"
    lacks = "".join(f"<p>{escape(words)}</p>" for words in found.missing)
    body = "".join(f"<section><h2>{escape(name)}</h2>{content}</section>" for name, content in sections)
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"/><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f"<p>{len(run.of_peer):,} peers in {times.length:,.0f} s; the job is {said}.{_left_out(run, peers)}</p>"
        f"{lacks}{body}</body></html>\n"
    )


def _left_out(run: Run, peers: frozenset[str]) -> str:
    if len(peers) == len(run.of_peer):
        return ""
    return f" Shown by name: {len(peers)}; killed peers and peers that joined later are chosen first."


def _invariants(findings: Iterable[Finding]) -> str:
    rows = []
    for finding in findings:
        kind = {"holds": "holds", "broken": "broken"}.get(finding.standing.value, "unseen")
        why = escape(finding.reason)
        if finding.history:
            shown = "\n".join(str(dict(line))[:300] for line in finding.history[:_MOST_LINES])
            why += f"<pre>{escape(shown)}</pre>"
        rows.append(
            f'<tr id="{escape(finding.invariant)}"><td>{escape(finding.invariant)}</td>'
            f'<td class="{kind}">{escape(finding.standing.value)}</td><td>{why}</td></tr>'
        )
    return f"<table><tr><th>invariant</th><th></th><th>why</th></tr>{''.join(rows)}</table>"


def _figures(found: Verdict) -> str:
    rows = [
        f'<tr><td>{escape(name)}</td><td class="n">{escape(shown)}</td></tr>'
        for name, shown in found.counters.words()
    ]
    return f"<table>{''.join(rows)}</table>"


def _exchanges(run: Run, peers: frozenset[str]) -> str:
    counted = outcomes(run)
    columns = sorted({kind for _, kinds in counted for kind in kinds})
    if not columns:
        return '<p class="unseen">there were no exchanges</p>'
    head = "".join(f"<th>{escape(kind)}</th>" for kind in columns)
    rows = "".join(
        f"<tr><td>{escape(peer)}</td>{_cells([kinds[kind] for kind in columns])}</tr>"
        for peer, kinds in counted
        if peer in peers
    )
    total = _cells([sum(kinds[kind] for _, kinds in counted) for kind in columns])
    return f"<table><tr><th>peer</th>{head}</tr>{rows}<tr><th>all</th>{total}</tr></table>"


def _cells(numbers: Sequence[int]) -> str:
    return "".join(f'<td class="n">{number:,}</td>' for number in numbers)
