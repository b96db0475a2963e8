"""A real Prometheus scrapes a job through ``discover``, and a real Alertmanager tells of a peer that is killed."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from gossip_caffe.cluster.etcd.ports import held_port
from tests.cluster_run import ClusterRun, cluster_run, wait_for
from tests.expressions import PROMETHEUS, expressions_of_alerts, expressions_of_dashboard
from tests.tiny_job import write_job

pytestmark = [
    pytest.mark.needs("caffe", "etcd", "prometheus", "promtool", "prometheus-alertmanager"),
    pytest.mark.xdist_group("metrics scraped"),  # one cluster with its Prometheus
]

LEASE_TTL_S = 15.0
"""Three times the default: peers of a busy machine lose no lease."""
DEADLINE_S = 400.0
"""A consensus test loads Caffe in a process of its own, which takes long on a machine that is busy."""
WITHOUT_GPU = "GPU memory"
"""The panel that has no data on a machine without a GPU."""


def got(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return bytes(answer.read())


def is_up(url: str) -> bool:
    try:
        return bool(got(url)) or True
    except (OSError, urllib.error.URLError):
        return False


@dataclass
class Webhook:
    """A receiver of alerts on loopback: (monotonic s, alert) of each that came."""

    came: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    port: int = 0

    def firing(self, name: str) -> list[tuple[float, dict[str, Any]]]:
        return [
            (at, alert)
            for at, alert in self.came
            if alert["labels"]["alertname"] == name and alert["status"] == "firing"
        ]


@contextmanager
def webhook() -> Iterator[Webhook]:
    made = Webhook()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            made.came += [(time.monotonic(), alert) for alert in body["alerts"]]
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            del arguments

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.port = server.server_address[1]
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        try:
            yield made
        finally:
            server.shutdown()


@contextmanager
def running(command: list[str], log: Path, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A program, with its output in a file, that is ended in the end."""
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, **more) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


@dataclass
class Monitored:
    """A job of three peers with Prometheus, Alertmanager and a webhook; ``guest``: a peer outside of the cluster."""

    run: ClusterRun
    prometheus: str
    discovery: str
    alerts: Webhook
    guest: subprocess.Popen[bytes]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result of an instant query. Fails for an expression that Prometheus does not take."""
        asked = urllib.parse.urlencode({"query": expression})
        answer = json.loads(got(f"{self.prometheus}/api/v1/query?{asked}"))
        assert answer["status"] == "success", answer
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def value(self, expression: str) -> float:
        """The value of an expression with one series; -1 when there is none."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else -1.0

    def first(self, name: str, since: float) -> tuple[float, dict[str, Any]] | None:
        """The first alert of that name that fired after ``since`` (monotonic s)."""
        return next(((at, alert) for at, alert in self.alerts.firing(name) if at > since), None)

    def targets(self) -> dict[str, dict[str, Any]]:
        groups = json.loads(got(self.discovery))
        return {group["labels"]["peer"]: group for group in groups}


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    """Two peers with ports on loopback and one with a Unix socket, scraped with the committed configuration."""
    home = tmp_path_factory.mktemp("m")
    job = write_job(home / "job", records=9600, batch=16, iterations=1_000_000, pace_ms=20)
    job.solver.write_text(job.solver.read_text().replace("test_interval: 1000000", "test_interval: 300"))
    with ExitStack() as opened:
        run = opened.enter_context(cluster_run(home / "s"))
        words = ["--metrics-listen", "127.0.0.1:0", "--set", "checkpoint_every_samples=20000"]
        words += ["--set", f"lease_ttl_s={LEASE_TTL_S:g}"]
        run.start("cluster", "up", "--peers", "2", "--solver", str(job.solver), *words)
        wait_for("two peers train", lambda: len(run.training()) == 2)
        etcd = run.status()["etcd"]
        start = ("peer", "start", "--etcd", etcd, "--job", "solver", "--name", "guest", "--run-dir")
        guest = opened.enter_context(
            running(run.command(*start, str(home / "guest")), home / "guest.log", env=run.environment)
        )
        alerts = opened.enter_context(webhook())
        held = [opened.enter_context(held_port()) for _ in range(3)]  # all three programs set SO_REUSEADDR
        discovery, prometheus, alertmanager = (f"127.0.0.1:{port.getsockname()[1]}" for port in held)
        command = run.command("discover", "--name", "local", "--listen", discovery)
        opened.enter_context(running(command, home / "discover.log", env=run.environment))
        configured(home, discovery, alertmanager, alerts.port)
        opened.enter_context(
            running(
                [
                    "prometheus-alertmanager",
                    f"--config.file={home / 'alertmanager.yml'}",
                    f"--storage.path={home / 'alertmanager'}",
                    f"--web.listen-address={alertmanager}",
                    "--cluster.listen-address=",
                ],
                home / "alertmanager.log",
            )
        )
        opened.enter_context(
            running(
                [
                    "prometheus",
                    f"--config.file={home / 'prometheus.yml'}",
                    f"--storage.tsdb.path={home / 'tsdb'}",
                    f"--web.listen-address={prometheus}",
                ],
                home / "prometheus.log",
            )
        )
        wait_for("Alertmanager is ready", lambda: is_up(f"http://{alertmanager}/-/ready"))
        wait_for("Prometheus is ready", lambda: is_up(f"http://{prometheus}/-/ready"))
        made = Monitored(run, f"http://{prometheus}", f"http://{discovery}/targets", alerts, guest)
        wait_for("three peers are scraped", lambda: made.value('sum(up{job="gossip-caffe"})') == 3)
        yield made
    run.assert_nothing_is_left()


def configured(home: Path, discovery: str, alertmanager: str, webhook_port: int) -> None:
    """Write the committed configuration with the addresses of this test."""
    for name, replaced in {
        "alerts.yml": {},
        "prometheus.yml": {"127.0.0.1:9465": discovery, "127.0.0.1:9093": alertmanager},
        "alertmanager.yml": {"127.0.0.1:9095": f"127.0.0.1:{webhook_port}"},
    }.items():
        text = (PROMETHEUS / name).read_text()
        for old, new in replaced.items():
            assert old in text
            text = text.replace(old, new)
        (home / name).write_text(text)


def test_targets_have_their_labels_and_each_answer_passes_the_lint(monitored: Monitored) -> None:
    wait_for("three targets", lambda: set(monitored.targets()) == {"p0", "p1", "guest"})
    targets = monitored.targets()
    assert "__metrics_path__" in targets["guest"]["labels"], (
        "a peer with a Unix socket is scraped through discover"
    )
    for group in targets.values():
        path = group["labels"].get("__metrics_path__", "/metrics")
        text = got(f"http://{group['targets'][0]}{path}")
        done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    for series in monitored.query('up{job="gossip-caffe"}'):
        assert series["metric"]["gossip_caffe_job"] == "solver"
        assert series["metric"]["peer"] in targets
    assert not monitored.query('{exported_job=~".+"}'), "a label of ours is named as one of Prometheus"


def operands(expression: str) -> list[str]:
    """The parts of an alert's expression that have data in quiet times, too: both sides of its comparisons."""
    parsed = promql_parser.parse(expression)

    def parts(node: Any) -> list[str]:
        is_condition = isinstance(node, promql_parser.BinaryExpr) and str(node.op) in {
            "and",
            "or",
            *("==", "!=", "<", "<=", ">", ">="),
        }
        if not is_condition:
            return [] if isinstance(node, promql_parser.NumberLiteral) else [node.prettify()]
        return [*parts(node.lhs), *parts(node.rhs)]

    return parts(parsed)


def test_every_expression_of_the_dashboard_and_of_the_alerts_gives_data(monitored: Monitored) -> None:
    asked = {name: [expression] for name, expression in expressions_of_dashboard().items()}
    asked |= {name: operands(expression) for name, expression in expressions_of_alerts().items()}
    assert len(asked) > 40
    left = {name: parts for name, parts in asked.items() if WITHOUT_GPU not in name}

    def all_have_data() -> bool:
        for name, parts in list(left.items()):
            if all(monitored.query(part) for part in parts):
                del left[name]
        return not left

    try:
        wait_for("every expression gives data", all_have_data, DEADLINE_S, look_every_s=1.0)
    except AssertionError:
        raise AssertionError(f"no data: {left}") from None
    groups = json.loads(got(f"{monitored.prometheus}/api/v1/rules"))["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len(expressions_of_alerts())
    assert {rule["health"] for rule in rules} == {"ok"}


def test_a_peer_that_leaves_raises_no_alert_and_one_that_is_killed_reaches_the_webhook(
    monitored: Monitored,
) -> None:
    run = monitored.run
    lost = monitored.value("max(gossip_caffe_peers_lost_total)")
    monitored.guest.send_signal(signal.SIGTERM)
    left_at = time.monotonic()
    wait_for("the guest has left", lambda: "guest" not in monitored.targets())
    wait_for("Prometheus knows", lambda: monitored.value('count(up{job="gossip-caffe"})') == 2)
    assert monitored.value("max(gossip_caffe_peers_lost_total)") == lost, "it was not lost: it left"
    (victim,) = [peer for peer in run.status()["peers"] if peer["peer"] == "p1"]
    killed_at = time.monotonic()
    os.kill(victim["status"]["agent_pid"], signal.SIGKILL)
    heard_at, alert = wait_for("the webhook hears", lambda: monitored.first("GossipCaffePeerGone", killed_at))
    print(f"killed; the webhook was called {heard_at - killed_at:.1f} s later (lease: {LEASE_TTL_S:g} s)")
    assert alert["labels"]["gossip_caffe_job"] == "solver"
    _, named = wait_for("the peer is named", lambda: monitored.first("GossipCaffePeerUnreachable", killed_at))
    assert named["labels"]["peer"] == "p1"
    assert "p1" in monitored.targets(), "a dead peer stays a target"
    said = [alert["labels"].get("peer") for at, alert in monitored.alerts.came if at > left_at]
    assert "guest" not in said, "nothing was said of the peer that left"


def test_the_programs_are_debians_and_none_runs_as_a_service() -> None:
    for program in ("prometheus", "prometheus-alertmanager"):
        assert shutil.which(program)
