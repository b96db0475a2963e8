"""Makes docs/metrics.md from the table of metrics: the name, kind, unit, labels and meaning of each."""

from __future__ import annotations

from pathlib import Path

from gossip_caffe.observe.metrics.table import SECTIONS, Kind, Metric

PAGE = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"
HEAD = """# Metrics

Each peer serves its metrics at `/metrics`. [Monitoring](monitoring.md) says where, and how Prometheus scrapes them.

A figure that a peer does not know yet has no value: a peer that joins has no loss. No metric has a label `job`, which
Prometheus uses for itself, and no label holds the names of other peers. `gossip-caffe discover` gives each target the
labels `gossip_caffe_job` and `peer`. Beside these metrics there are those of the agent's process that every Prometheus
client has: `process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_open_fds` and others.

This page is generated from `gossip_caffe/observe/metrics/table.py` by `make docs`.
"""
TABLE_HEAD = """
| metric | kind | unit | labels | meaning |
|---|---|---|---|---|
"""


def labels_of(metric: Metric) -> str:
    """The labels of a metric with their values."""
    texts = []
    for name, values in metric.labels:
        listed = ", ".join(f"`{value}`" for value in values)
        texts.append(f"`{name}`: {listed}" if values else f"`{name}`")
    return "; ".join(texts)


def kind_of(metric: Metric) -> str:
    """The kind of a metric; of a histogram also the range of its buckets."""
    if metric.kind is not Kind.HISTOGRAM:
        return metric.kind.value
    return f"histogram, {len(metric.buckets)} buckets from {metric.buckets[0]:g} to {metric.buckets[-1]:g}"


def row(metric: Metric) -> str:
    """The row of a metric."""
    cells = (f"`{metric.full_name}`", kind_of(metric), metric.unit, labels_of(metric), metric.help)
    return "".join(f"| {cell} " if cell else "| " for cell in cells) + "|\n"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for section in SECTIONS:
        parts += [f"\n## {section.title}\n", TABLE_HEAD, *map(row, section.metrics)]
    return "".join(parts)
