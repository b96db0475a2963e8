"""Makes the dashboard of a job for Grafana: deploy/grafana/gossip-caffe.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parent / "gossip-caffe.json"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT, STAT_HEIGHT = 8, 8, 4
"""The size of a panel, in Grafana's units: a row has 24 of them."""
ROW_WIDTH = 24
JOB, PEER = 'gossip_caffe_job=~"$job"', 'gossip_caffe_job=~"$job", peer=~"$peer"'
RATE = "[$__rate_interval]"


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. ``lines``: expression → legend. ``unit``: Grafana's name of it. ``stat``: one large figure."""

    title: str
    lines: dict[str, str]
    unit: str = "short"
    text: str = ""
    stat: bool = False
    logarithmic: bool = False


def _of_peer(name: str, legend: str = "{{peer}}") -> dict[str, str]:
    return {f"gossip_caffe_{name}{{{PEER}}}": legend}


def _rate(name: str, by: str = "peer") -> str:
    return f"sum by ({by}) (rate(gossip_caffe_{name}{{{PEER}}}{RATE}))"


def _quantile(share: float, name: str, by: str = "peer") -> str:
    buckets = f"sum by ({by}, le) (rate(gossip_caffe_{name}_bucket{{{PEER}}}{RATE}))"
    return f"histogram_quantile({share:g}, {buckets})"


def _of_job(name: str, how: str = "max") -> str:
    return f"{how} by (gossip_caffe_job) (gossip_caffe_{name}{{{JOB}}})"


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "The job",
        (
            Panel("Progress", {_of_job("job_progress_ratio"): ""}, "percentunit", stat=True),
            Panel("Peers that train", {f'max(gossip_caffe_peers{{{JOB}, state="training"}})': ""}, stat=True),
            Panel("Samples a second", {_of_job("samples_per_second", "sum"): ""}, stat=True),
            Panel(
                "Test score", {_of_job("job_test_score"): ""}, stat=True, text="Accuracy, or negated loss."
            ),
            Panel("Finished epochs", {_of_job("job_finished_epochs"): ""}, stat=True),
            Panel(
                "Peers lost in an hour",
                {f"max(increase(gossip_caffe_peers_lost_total{{{JOB}}}[1h]))": ""},
                stat=True,
            ),
        ),
    ),
    (
        "Training",
        (
            Panel("Loss", _of_peer("loss"), logarithmic=True),
            Panel("Samples a second", {_rate("samples_trained_total"): "{{peer}}"}),
            Panel("Learning rate", _of_peer("learning_rate")),
            Panel(
                "Duration of an iteration",
                {
                    _quantile(0.5, "step_duration_seconds"): "{{peer}} median",
                    _quantile(0.95, "step_duration_seconds"): "{{peer}} 95%",
                },
                "s",
            ),
            Panel(
                "Share of time without a batch",
                {_rate("data_stall_seconds_total"): "{{peer}}"},
                "percentunit",
            ),
            Panel(
                "Restarts and skipped records",
                {
                    _rate("solver_restarts_total"): "{{peer}} solvers",
                    _rate("loader_deaths_total"): "{{peer}} loaders",
                    _rate("records_skipped_total"): "{{peer}} records",
                },
            ),
        ),
    ),
    (
        "Exchanges",
        (
            Panel(
                "Exchanges by outcome",
                {_rate("exchanges_total", "side, outcome"): "{{side}} {{outcome}}"},
                "ops",
            ),
            Panel(
                "Weights carried",
                {_rate("exchange_bytes_total", "direction, codec"): "{{direction}} {{codec}}"},
                "Bps",
            ),
            Panel("Consensus distance", _of_peer("consensus_distance_ratio"), logarithmic=True),
            Panel(
                "Length of a half (95%)", {_quantile(0.95, "exchange_half_ratio"): "{{peer}}"}, "percentunit"
            ),
            Panel(
                "Staleness (95%)",
                {_quantile(0.95, "exchange_staleness_iterations"): "{{peer}}"},
                text="Iterations during an exchange.",
            ),
            Panel("Time since the last exchange", _of_peer("last_exchange_age_seconds"), "s"),
        ),
    ),
    (
        "Data, store and checkpoints",
        (
            Panel("Shard", _of_peer("shard_records"), text="Records of the data set in each peer's shard."),
            Panel("Owned chunks", _of_peer("chunks_owned")),
            Panel(
                "Margin of the lease",
                {**_of_peer("lease_margin_seconds"), _of_job("store_up", "min"): "etcd answers"},
                "s",
            ),
            Panel(
                "Age of the newest checkpoint",
                {_of_job("checkpoint_age_seconds", "min"): "{{gossip_caffe_job}}"},
                "s",
            ),
            Panel(
                "Duration of a checkpoint (95%)",
                {_quantile(0.95, "checkpoint_duration_seconds", "gossip_caffe_job"): "{{gossip_caffe_job}}"},
                "s",
            ),
            Panel(
                "Half-applied exchanges",
                {
                    _rate("exchanges_half_applied_total"): "{{peer}}",
                    f"gossip_caffe_mass_error{{{PEER}}}": "{{peer}} mass error",
                },
            ),
        ),
    ),
    (
        "The machines",
        (
            Panel(
                "CPU of the agents",
                {f"rate(process_cpu_seconds_total{{{PEER}}}{RATE})": "{{peer}}"},
                "percentunit",
            ),
            Panel("Memory of the agents", {f"process_resident_memory_bytes{{{PEER}}}": "{{peer}}"}, "bytes"),
            Panel("Delay of the event loop", _of_peer("event_loop_lag_seconds"), "s"),
            Panel("Free space of the run folder", _of_peer("run_folder_free_bytes"), "bytes"),
            Panel(
                "GPU memory",
                _of_peer("device_memory_used_bytes", "{{peer}} used")
                | _of_peer("device_memory_size_bytes", "{{peer}} size"),
                "bytes",
            ),
            Panel("Peers by state", {f"max by (state) (gossip_caffe_peers{{{JOB}}})": "{{state}}"}),
        ),
    ),
)


def panel_of(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    """A panel as Grafana stores it."""
    custom: dict[str, Any] = {} if panel.stat else {"lineWidth": 1, "fillOpacity": 0}
    if panel.logarithmic:
        custom["scaleDistribution"] = {"type": "log", "log": 10}
    return {
        "id": number,
        "type": "stat" if panel.stat else "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": DATASOURCE,
        "gridPos": place,
        "targets": [
            {"refId": chr(ord("A") + place), "expr": expr, "legendFormat": legend, "datasource": DATASOURCE}
            for place, (expr, legend) in enumerate(panel.lines.items())
        ],
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom}, "overrides": []},
        "options": {} if panel.stat else {"legend": {"displayMode": "list"}, "tooltip": {"mode": "multi"}},
    }


def panels() -> list[dict[str, Any]]:
    """All panels, row by row, each with a number of its own."""
    made: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        place = {"h": 1, "w": ROW_WIDTH, "x": 0, "y": y}
        made.append(
            {
                "id": len(made) + 1,
                "type": "row",
                "title": title,
                "gridPos": place,
                "collapsed": False,
                "panels": [],
            }
        )
        width, height = (ROW_WIDTH // len(row), STAT_HEIGHT) if row[0].stat else (WIDTH, HEIGHT)
        across = ROW_WIDTH // width
        for index, panel in enumerate(row):
            place = {
                "h": height,
                "w": width,
                "x": index % across * width,
                "y": y + 1 + index // across * height,
            }
            made.append(panel_of(panel, len(made) + 1, place))
        y += 1 + -(-len(row) // across) * height
    return made


def variable(name: str, label: str, query: str) -> dict[str, Any]:
    """A choice at the head of the dashboard, from the values of a label."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard() -> dict[str, Any]:
    """The whole dashboard."""
    choices = [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        variable("job", "Job", "label_values(gossip_caffe_build_info, gossip_caffe_job)"),
        variable("peer", "Peer", 'label_values(gossip_caffe_build_info{gossip_caffe_job=~"$job"}, peer)'),
    ]
    return {
        "title": "gossip-caffe",
        "uid": "gossip-caffe",
        "tags": ["gossip-caffe"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": choices},
        "panels": panels(),
    }


def text() -> str:
    """The file's content."""
    return json.dumps(dashboard(), indent=1) + "\n"
