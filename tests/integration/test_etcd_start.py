"""``gossip-caffe etcd start``: peers find it by a file, and it goes on with its data."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gossip_caffe.errors import ExitCode
from tests.cluster_run import ClusterRun, one_line, wait_for
from tests.tiny_job import write_job

pytestmark = pytest.mark.needs("etcd")


@contextmanager
def started(run: ClusterRun, folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """An etcd with its data in a folder: its address, and its process."""
    file = folder / "etcd.address"
    options = ("--listen", "127.0.0.1:0", "--data-dir", str(folder / "etcd"), "--address-file", str(file))
    process = run.start("etcd", "start", *options)
    try:
        wait_for("its address is there", file.exists)
        yield file.read_text().strip(), process
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == ExitCode.OK
        assert not file.exists()
    finally:
        process.kill()


def test_it_is_found_by_its_file_is_started_again_when_it_dies_and_keeps_its_jobs(tmp_path: Path) -> None:
    job, run = write_job(tmp_path / "job", records=64), ClusterRun(tmp_path / "state")
    with started(run, tmp_path) as (address, process):
        made = run.run("job", "create", "j", "--solver", str(job.solver), "--etcd", address, "--unchecked")
        assert made.returncode == 0, made.stderr
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        died = children.read_text().split()
        subprocess.run(["kill", "-KILL", *died], check=True)
        wait_for(
            "another etcd answers", lambda: listed(run, address) and children.read_text().split() != died
        )
    with started(run, tmp_path) as (address, _):
        assert listed(run, address) == ["j"]
    run.assert_nothing_is_left()


def listed(run: ClusterRun, address: str) -> list[str]:
    """The jobs in an etcd; none when it does not answer."""
    done = run.run("job", "list", "--etcd", address, "--json")
    return [entry["name"] for entry in json.loads(done.stdout)] if done.returncode == 0 else []


@pytest.mark.parametrize(
    ("listen", "more", "said"),
    [
        ("10.1.2.3:0", (), "other machines reach --listen 10.1.2.3:0, and this etcd has no certificate"),
        ("0.0.0.0:0", ("--insecure",), "is no address by which others reach this machine"),
        ("no.such.name.invalid:0", ("--insecure",), "no.such.name.invalid has no address"),
    ],
)
def test_an_address_that_cannot_serve_is_refused(
    listen: str, more: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    done = ClusterRun(tmp_path).run("etcd", "start", "--listen", listen, *more)
    assert done.returncode == ExitCode.USAGE
    assert said in one_line(done)
