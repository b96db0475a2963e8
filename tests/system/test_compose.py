"""deploy/compose for real, over podman's socket: peers are scaled and killed, nothing is lost, nothing is left."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from gossip_caffe.observe.checker.verdict import verdict_of
from tests.cluster_run import ROOT, wait_for
from tests.known_words import unknown
from tests.optional import program
from tests.system.containers import IMAGE, PROGRAMS, Containers, service
from tests.tiny_job import TinyJob, write_job

FILE = ROOT / "deploy" / "compose" / "compose.yaml"
MONITORS = ("prometheus", "alertmanager")
TRAINERS = ("etcd0", "etcd1", "etcd2", "create", "peer", "discover")


def config(*more: str, **variables: str) -> tuple[dict[str, Any], str]:
    """What docker-compose makes of the file, and what it says: it exits with 0 also when it warns."""
    done = subprocess.run(
        [program("docker-compose"), "-f", str(FILE), *more, "config"],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = yaml.safe_load(done.stdout)
    assert isinstance(found, dict)
    return found, done.stderr


@pytest.mark.needs("docker-compose")
def test_compose_has_nothing_to_say_of_the_file() -> None:
    made, said = config()
    assert said == ""
    assert set(made["services"]) == {*TRAINERS, *MONITORS}


@pytest.mark.needs("dclint")
def test_dclint_has_nothing_to_say_and_says_what_is_wrong(tmp_path: Path) -> None:
    def said_of(folder: Path) -> str:
        words = [program("dclint"), "--no-color", str(folder)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    assert said_of(FILE.parent).strip() == ""
    ports = FILE.read_text().replace("'127.0.0.1:${PROMETHEUS_PORT:-9090}:9090'", "'9090:9090'")
    (tmp_path / FILE.name).write_text(ports)
    assert "no-unbound-port-interfaces" in said_of(tmp_path)


@pytest.mark.needs("docker-compose")
def test_a_variable_without_a_value_would_be_seen(tmp_path: Path) -> None:
    more = tmp_path / "more.yaml"
    more.write_text("services: { peer: { environment: { X: '${NO_SUCH_VARIABLE}' } } }\n")
    assert "NO_SUCH_VARIABLE" in config("-f", str(more))[1]


@pytest.mark.needs("docker-compose")
def test_peers_have_options_of_the_program_time_to_leave_and_restarts_that_fit() -> None:
    services = config()[0]["services"]
    for name in ("create", "peer", "discover"):
        assert not unknown(services[name]["command"])
    grace = re.search(r"--grace=(\d+)", " ".join(services["peer"]["command"]))
    assert grace is not None
    assert services["peer"]["stop_grace_period"] == "1m0s"
    assert int(grace[1]) + 5 <= 60
    assert services["peer"]["restart"] == "on-failure", "0 is a finished job"
    for name in TRAINERS:
        assert services[name]["read_only"]
        assert services[name]["cap_drop"] == ["ALL"]


@pytest.mark.needs("docker-compose")
def test_prometheus_is_configured_as_without_compose() -> None:
    ours = (FILE.parent / "prometheus.yml").read_text()
    other = (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text()
    renamed = other.replace("127.0.0.1:9093", "alertmanager:9093").replace("127.0.0.1:9465", "discover:9465")
    assert yaml.safe_load(ours) == yaml.safe_load(renamed)


@dataclass
class Project:
    """A project of docker-compose. ``folder``: the override for podman, and what is copied out."""

    engine: Containers
    folder: Path
    job: TinyJob
    name: str = "gossip-caffe-test"

    @property
    def environment(self) -> dict[str, str]:
        return self.engine.environment | {
            "IMAGE": IMAGE,
            "JOB": "tiny",
            "ALLOW_CODE": "1",
            "DATA": str(self.job.folder),
            "PEER_CPUS": "1",
            "PROMETHEUS_IMAGE": IMAGE,
            "ALERTMANAGER_IMAGE": IMAGE,
            "PROMETHEUS_PORT": "0",
            "ALERTMANAGER_PORT": "0",
        }

    def compose(self, *words: str, deadline_s: float = 180.0) -> str:
        files = ("-f", str(FILE), "-f", str(self.folder / "override.yaml"))
        done = subprocess.run(
            [program("docker-compose"), "-p", self.name, *files, *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()
        return done.stdout

    def logs(self) -> str:
        """The last words of each container, for a test that has failed."""
        names = self.engine.remote("ps", "-a", "--format={{.Names}}", check=False).split()
        return "\n".join(
            f"== {name}\n{self.engine.remote('logs', '--tail=15', name, check=False)}" for name in names
        )

    def scale(self, peers: int) -> None:
        self.compose("up", "--detach", "--no-recreate", "--scale", f"peer={peers}")

    def inside(self, *words: str) -> str:
        """Run a command of the program beside etcd."""
        return self.engine.remote("exec", self.containers("etcd1")[0], *words, check=False)

    def training(self) -> list[str]:
        """The peers that train; none when etcd does not answer."""
        said = self.inside(
            "gossip-caffe", "peer", "list", "--etcd", "etcd1:2379,etcd2:2379", "--insecure", "--json"
        )
        try:
            return sorted(peer["peer"] for peer in json.loads(said) if peer["state"] == "training")
        except ValueError:
            return []

    def containers(self, of: str, *more: str) -> list[str]:
        """The ids of the running containers of a service."""
        wanted = (f"label=com.docker.compose.project={self.name}", f"label=com.docker.compose.service={of}")
        filters = [word for each in wanted for word in ("--filter", each)]
        return self.engine.remote("ps", "--quiet", *filters, *more).split()

    def pid(self, container: str) -> int:
        return int(self.engine.remote("inspect", "--format={{.State.Pid}}", container))


@pytest.fixture
def project(engine: Containers, tmp_path: Path) -> Iterator[Project]:
    job = write_job(tmp_path / "job", iterations=12_000, pace_ms=25)
    shutil.copytree(
        ROOT / "tests", job.folder / "tests", ignore=shutil.ignore_patterns("*.pyc", "system", "unit")
    )
    for path in (tmp_path, tmp_path.parent, *tmp_path.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    made = Project(engine, tmp_path, job)
    limits: dict[str, Any] = {"ulimits": {"nofile": 16384, "nproc": 16384}}
    paths = {
        name: {"volumes": [f"{job.folder}:{job.folder}:ro"], "environment": {"PYTHONPATH": str(job.folder)}}
        for name in ("create", "peer")
    }
    solver = {"command": ["job", "create", "tiny", f"--solver={job.solver}", STORE]}
    services = {name: limits | paths.get(name, {}) for name in TRAINERS}
    services["create"] |= solver
    for name, binary in (("prometheus", "prometheus"), ("alertmanager", "prometheus-alertmanager")):
        services[name] = limits | {
            "entrypoint": ["/bin/monitor"],
            "user": "0",
            "healthcheck": {"disable": True},
            "volumes": [f"{shutil.which(binary)}:/bin/monitor:ro"],
        }
    (tmp_path / "override.yaml").write_text(yaml.safe_dump({"services": services}))
    with service(engine):
        try:
            yield made
        finally:
            made.compose("down", "--volumes", "--timeout", "5")


STORE = "--set=checkpoint_store=file:///var/lib/gossip-caffe/store"


@pytest.mark.long
@pytest.mark.needs("docker-compose", "caffe", "prometheus", "prometheus-alertmanager", *PROGRAMS)
def test_peers_go_from_two_to_four_to_one_some_are_killed_and_the_job_is_finished(project: Project) -> None:
    project.compose("up", "--detach", "--scale", "peer=2")
    wait_for("two peers train", lambda: len(project.training()) == 2)
    port = project.compose("port", "prometheus", "9090").strip().rpartition(":")[2]
    wait_for("Prometheus scrapes both", lambda: scraped(port) == 2)

    project.scale(4)
    wait_for("four peers train", lambda: len(project.training()) == 4)
    before = project.training()
    os.kill(project.pid(project.containers("peer")[0]), signal.SIGKILL)
    wait_for("the killed peer is gone", lambda: set(before) - set(project.training()))
    wait_for("another has come", lambda: len(project.training()) == 4)
    project.engine.remote("kill", "--signal=KILL", project.containers("etcd0")[0])
    assert len(project.training()) >= 3, "two of three etcd are enough"

    project.scale(1)
    wait_for("one peer trains", lambda: len(project.training()) == 1)
    project.job.hurry()
    wait_for("the job is finished", lambda: not project.containers("peer"))
    run = project.folder / "run"
    project.engine.remote(
        "cp", f"{project.containers('peer', '--all')[0]}:/var/lib/gossip-caffe/run", str(run)
    )
    assert verdict_of(run).broken == ()

    project.compose("down", "--volumes", "--timeout", "5")
    for kind in (("ps", "--all"), ("volume", "ls"), ("network", "ls", "--filter=name=gossip-caffe")):
        assert project.engine.remote(*kind, "--quiet").split() == []


def scraped(port: str) -> int:
    """The peers of which a Prometheus has figures."""
    url = f"http://127.0.0.1:{port}/api/v1/query?query=count(gossip_caffe_job_progress_ratio)"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            found = json.load(answer)["data"]["result"]
    except OSError:
        return 0
    return int(found[0]["value"][1]) if found else 0
