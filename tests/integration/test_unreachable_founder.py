"""A peer that advertises an address that nobody can reach: whoever joins says so, once, and ends with that cause."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from gossip_caffe.cluster.etcd.server import EtcdServer
from tests.cluster_run import cluster_run, wait_for
from tests.tiny_job import write_job

NOWHERE = "127.0.0.9:1"


def test_a_joiner_says_whom_it_cannot_reach_and_why(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", records=800, batch=16, iterations=2_000_000)
    etcd = EtcdServer(tmp_path / "etcd")
    etcd.start()
    try:
        with cluster_run(tmp_path / "state") as run:
            where = ("--etcd", etcd.endpoint)
            made = run.run("job", "create", "j", "--solver", str(job.solver), *where)
            assert made.returncode == 0, made.stderr
            start = ("peer", "start", "--job", "j", *where)
            log = tmp_path / "b.log"

            def started(name: str, *words: str) -> subprocess.Popen[bytes]:
                command = run.command(*start, "--name", name, "--run-dir", str(tmp_path / name), *words)
                with (tmp_path / f"{name}.log").open("wb") as out:
                    return subprocess.Popen(command, env=run.environment, stdout=out, stderr=out)

            started("a", "--advertise", NOWHERE)
            wait_for("the founder trains", lambda: "a: training" in (tmp_path / "a.log").read_text())
            joiner = started("b")
            line = re.compile(
                rf"^b: cannot reach a at {NOWHERE} \(connection refused\); check --advertise of a, .*second port",
                re.MULTILINE,
            )
            wait_for("it says so", lambda: line.search(log.read_text()))
            wait_for(
                "the list says so", lambda: "\nb: cannot reach a at" in run.run("peer", "list", *where).stdout
            )
            wait_for("it gives up", lambda: joiner.poll() is not None)
            said = log.read_text()
    finally:
        etcd.stop()
    pulled = re.findall("pulling checkpoint .*", said)
    assert pulled
    assert len(pulled) == len(set(pulled)), said
    assert len(line.findall(said)) == 1
    last = said.splitlines()[-1]
    assert last.count("connection refused") == 1
    assert last.endswith("check --advertise of a, the firewall, and the second port (bulk)")
    assert "--run-dir" not in last
    assert joiner.returncode == 1
    assert "Traceback" not in said
