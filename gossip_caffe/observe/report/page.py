"""A run as one self-contained HTML page: it loads no network resource, no script and no font."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path

from gossip_caffe.observe.checker.verdict import Finding, Verdict, verdict_on
from gossip_caffe.observe.history.run import Run
from gossip_caffe.observe.report.chart import lanes, lines
from gossip_caffe.observe.report.gathered import Gathered
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
from gossip_caffe.observe.report.style import chart_style
from gossip_caffe.observe.report.tables import exchange_table

STYLE = """
body{font:14px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:1000px;margin:2em auto;
padding:0 1em}
h1{font-size:1.5em}h2{font-size:1.1em;margin:2em 0 .4em}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:3px 8px;border-bottom:1px solid var(--rule);vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums}.holds{color:var(--kind-joined)}
.broken{color:var(--kind-killed);font-weight:bold}
.unseen{color:var(--quiet)}
pre{background:var(--rule);padding:.6em;overflow-x:auto;font-size:11px}
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
    gathered = Gathered.of(run)
    peers = chosen(gathered)
    distance = [*consensus_seen(gathered), *summed(progress(gathered, "distance"))]
    charts = (
        (
            "Peers",
            lanes("lifelines of the peers", of(peers, lifelines(gathered)), gathered.length_s, LIFE_KINDS),
        ),
        (
            "Owners of chunks",
            lanes("ownership of chunks", of(peers, ownership(gathered)), gathered.length_s, OWNER_KINDS),
        ),
        ("Chunks settled", lines("chunks settled by each peer", summed(shares(gathered)), "seconds")),
        ("Loss", lines("training loss of each peer", summed(progress(gathered, "loss")), "seconds")),
        (
            "Test of the consensus",
            lines("test outputs", consensus_tests(gathered), "samples trained by all peers"),
        ),
        ("Consensus distance", lines("consensus distance", distance, "seconds", logarithmic=True)),
        ("Learning rate", lines("learning rate", summed(progress(gathered, "learning_rate")), "seconds")),
    )
    sections = [
        ("Invariants", _invariants(found.findings)),
        ("Figures", _figures(found)),
        *((name, chart or '<p class="unseen">the logs have no data for this</p>') for name, chart in charts),
        ("Exchanges", _exchanges(gathered, peers)),
    ]
    said = "finished" if run.finished else "not finished"
    lacks = "".join(f"<p>{escape(words)}</p>" for words in found.missing)
    body = "".join(f"<section><h2>{escape(name)}</h2>{content}</section>" for name, content in sections)
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"/><title>{escape(title)}</title>'
        f"<style>{chart_style()}{STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f"<p>{len(run.of_peer):,} peers in {gathered.length_s:,.0f} s; the job is {said}.{_left_out(run, peers)}</p>"
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


def _exchanges(gathered: Gathered, peers: frozenset[str]) -> str:
    bars = of(peers, exchange_bars(gathered))
    most = max((bar.stop for row in bars for bar in row.bars), default=0.0)
    chart = lanes("exchanges of each peer", bars, most, EXCHANGE_KINDS, "exchanges") if most else ""
    return chart + exchange_table(gathered, peers)
