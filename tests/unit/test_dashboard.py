"""The dashboard and the alerts: the committed file is what the code makes, and each expression names known metrics."""

from __future__ import annotations

import itertools
import re
import subprocess
from typing import Any

import promql_parser
import pytest

from gossip_caffe.observe.metrics.table import TABLE, Kind
from tests.cluster_run import ROOT
from tests.expressions import (
    ALERTS,
    PROMETHEUS,
    dashboard,
    expressions_of_alerts,
    expressions_of_dashboard,
)

OF_EVERY_PROCESS = {"up", "process_cpu_seconds_total", "process_resident_memory_bytes"}
TARGET_LABELS = {"job", "instance", "gossip_caffe_job", "peer", "host", "device", "zone"}
PANELS = [panel for panel in dashboard.panels() if panel["type"] != "row"]


EXPRESSIONS = [
    pytest.param(expression, id=name)
    for name, expression in (expressions_of_dashboard() | expressions_of_alerts()).items()
]


def test_the_committed_dashboard_is_what_the_code_makes() -> None:
    assert dashboard.FILE.read_text(encoding="utf-8") == dashboard.text(), "run: make docs"


def test_each_panel_has_a_number_and_a_place_of_its_own() -> None:
    panels = dashboard.panels()
    numbers = [panel["id"] for panel in panels]
    assert len(numbers) == len(set(numbers))
    for one, other in itertools.combinations([panel["gridPos"] for panel in panels], 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= dashboard.ROW_WIDTH for panel in panels)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_each_panel_has_a_title_a_unit_and_lines_with_names_of_their_own(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["fieldConfig"]["defaults"]["unit"] in {"short", "percentunit", "s", "ops", "Bps", "bytes"}
    references = [target["refId"] for target in panel["targets"]]
    assert len(references) == len(set(references)) >= 1


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_each_expression_is_promql_over_metrics_and_labels_that_there_are(expression: str) -> None:
    promql_parser.parse(expression)
    known: dict[str, set[str]] = {name: set() for name in OF_EVERY_PROCESS}
    for metric in TABLE.values():
        parts = ("_bucket", "_sum", "_count") if metric.kind is Kind.HISTOGRAM else ("",)
        known |= {metric.full_name + part: {*metric.label_names, "le"} for part in parts}
    names = set(re.findall(r"\b(?:gossip_caffe_(?!job\b)|process_)\w+|\bup\b", expression))
    assert names
    assert names <= set(known)
    labels = set(re.findall(r"(\w+)\s*(?:=~|=|!=|!~)\s*\"", expression))
    labels |= {
        label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")
    }
    assert labels <= TARGET_LABELS.union(*(known[name] for name in names))


def test_the_alerts_are_those_that_the_page_names() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    assert len(expressions_of_alerts()) == 7
    for name in expressions_of_alerts():
        assert f"`{name}`" in page


@pytest.mark.needs("promtool")
def test_promtool_takes_the_rules_and_their_tests_pass() -> None:
    for command in (
        ("check", "rules", "--lint=all", ALERTS.name),
        ("test", "rules", "alerts_test.yml"),
        ("check", "config", "prometheus.yml"),
    ):
        done = subprocess.run(
            ["promtool", *command], cwd=PROMETHEUS, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.needs("amtool")
def test_amtool_takes_the_configuration() -> None:
    command = ["amtool", "check-config", "alertmanager.yml"]
    done = subprocess.run(command, cwd=PROMETHEUS, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
