"""The expressions of the alerts in deploy/prometheus and of the dashboard in deploy/grafana."""

from __future__ import annotations

import re
import sys

from tests.cluster_run import ROOT

sys.path.insert(0, str(ROOT / "deploy"))

from grafana import dashboard

__all__ = ["ALERTS", "PROMETHEUS", "dashboard", "expressions_of_alerts", "expressions_of_dashboard"]

PROMETHEUS = ROOT / "deploy" / "prometheus"
ALERTS = PROMETHEUS / "alerts.yml"


def expressions_of_alerts() -> dict[str, str]:
    """The name of each alert → its expression. No YAML parser is needed: each expression stands on one line."""
    text = ALERTS.read_text(encoding="utf-8")
    found = dict(re.findall(r"^ *- alert: (\w+)\n *expr: (.+)$", text, re.MULTILINE))
    assert len(found) == text.count("- alert:"), "an alert without an expression on the line after its name"
    return found


def expressions_of_dashboard() -> dict[str, str]:
    """The title of each panel with the letter of its line → the expression, as Grafana asks Prometheus for it."""
    return {
        f"{panel['title']}, {target['refId']}": target["expr"]
        .replace("$__rate_interval", "1m")
        .replace('"$job"', '".*"')
        .replace('"$peer"', '".*"')
        for panel in dashboard.panels()
        for target in panel.get("targets", ())
    }
