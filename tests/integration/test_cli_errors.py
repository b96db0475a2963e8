"""A user's mistakes, made at a shell: one line that names the place and the remedy, an exit code, and no traceback."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.errors import ExitCode
from tests.cluster_run import ClusterRun, cluster_run, wait_for
from tests.tiny_job import TinyJob, write_job

pytestmark = pytest.mark.needs("caffe", "etcd")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[ClusterRun]:
    with cluster_run(tmp_path / "state") as made:
        yield made


@pytest.fixture
def job(tmp_path: Path) -> TinyJob:
    return write_job(tmp_path / "job", records=64, iterations=40)


def refused(done: subprocess.CompletedProcess[str], code: ExitCode, says: str) -> None:
    """It ended with this code and one line on stderr that says so; news that it takes a while may go before."""
    assert done.returncode == code, done.stderr
    *news, line = done.stderr.splitlines()
    assert all(entry.endswith("…") for entry in news), done.stderr
    assert line.startswith("gossip-caffe: ")
    assert re.search(says, line), done.stderr


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_an_etcd_where_nothing_listens(run: ClusterRun) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        done = run.run("job", "list", "--etcd", address)
    refused(done, ExitCode.UNREACHABLE, f"cannot reach etcd at {address} .*; check --etcd")


def test_an_etcd_that_is_no_address(run: ClusterRun) -> None:
    done = run.run("peer", "start", "--job", "a", "--etcd", "nowhere")
    refused(done, ExitCode.USAGE, "--etcd 'nowhere' is no HOST:PORT; give nowhere:2379")


def test_a_job_that_does_not_exist_is_told_apart_from_those_that_do(
    run: ClusterRun, etcd: EtcdServer, job: TinyJob
) -> None:
    assert (
        run.run("job", "create", "cli-real", "--solver", str(job.solver), "--etcd", etcd.endpoint).returncode
        == 0
    )
    done = run.run("peer", "start", "--job", "unreal", "--etcd", etcd.endpoint, "--run-dir", str(run.folder))
    refused(
        done,
        ExitCode.NOT_FOUND,
        r"no job 'unreal' \(known: .*cli-real.*\); make it with 'gossip-caffe job create",
    )
    refused(run.run("job", "show", "unreal", "--etcd", etcd.endpoint), ExitCode.NOT_FOUND, "no job 'unreal'")


def test_a_job_is_created_once_and_another_of_its_name_is_refused(
    run: ClusterRun, etcd: EtcdServer, job: TinyJob
) -> None:
    create = ("job", "create", "cli-twice", "--solver", str(job.solver), "--etcd", etcd.endpoint)
    assert "created: 640 samples of 64 records" in run.run(*create).stdout
    assert "exists already, and is the same" in run.run(*create).stdout
    refused(
        run.run(*create, "--set", "seed=9"), ExitCode.CONFLICT, "another job 'cli-twice'; choose another name"
    )


def test_a_port_in_use(run: ClusterRun, etcd: EtcdServer, job: TinyJob) -> None:
    assert (
        run.run("job", "create", "cli-port", "--solver", str(job.solver), "--etcd", etcd.endpoint).returncode
        == 0
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        start = ("peer", "start", "--job", "cli-port", "--etcd", etcd.endpoint, "--run-dir", str(run.folder))
        done = run.run(*start, "--listen", address)
    refused(done, ExitCode.CONFLICT, f"cannot listen on {address}: the port is in use; choose another")


def test_a_second_cluster_of_the_same_name(run: ClusterRun, job: TinyJob) -> None:
    change(job.solver, "max_iter: 40", "max_iter: 400000")
    first = run.start("cluster", "up", "--peers", "1", "--solver", str(job.solver))
    wait_for("it is up", run.status)
    done = run.run("cluster", "up", "--peers", "1", "--solver", str(job.solver))
    refused(done, ExitCode.CONFLICT, "cluster 'local' is up already; .* give another --name")
    assert run.run("cluster", "down").returncode == 0
    assert first.wait(60) == ExitCode.LEFT


def test_a_solver_file_that_is_not_there(run: ClusterRun, tmp_path: Path) -> None:
    for command in (
        ("job", "create", "a", "--etcd", "127.0.0.1:1"),
        ("cluster", "up"),
        ("cluster", "up", "-d"),
    ):
        done = run.run(*command, "--solver", str(tmp_path / "none.prototxt"))
        refused(done, ExitCode.USAGE, "there is no solver at .*none.prototxt; check the path")
    assert not run.processes()


def test_a_prototxt_that_cannot_be_read_is_named_with_its_line(run: ClusterRun, job: TinyJob) -> None:
    change(job.net, "relu1", 'relu1"\n name')
    done = run.run("cluster", "up", "--solver", str(job.solver))
    refused(done, ExitCode.USAGE, r"net\.prototxt:\d+:\d+: ")


def test_a_data_set_that_is_not_there_is_named_with_its_layer(run: ClusterRun, job: TinyJob) -> None:
    change(job.net, str(job.train), "/nowhere/train")
    done = run.run("cluster", "up", "--solver", str(job.solver))
    refused(
        done, ExitCode.USAGE, r"net\.prototxt:\d+: layer 'data': there is no LMDB at /nowhere/train; check"
    )


@pytest.mark.parametrize("detach", [(), ("--detach",)], ids=["foreground", "detached"])
def test_a_layer_that_caffe_does_not_know_is_one_line_and_mending_it_is_enough(
    run: ClusterRun, job: TinyJob, detach: tuple[str, ...]
) -> None:
    up = ("cluster", "up", "--peers", "1", "--solver", str(job.solver), *detach)
    change(job.net, "InnerProduct", "InerProduct")
    refused(
        run.run(*up),
        ExitCode.USAGE,
        r"net\.prototxt:\d+:\d+: layer 'ip1' has the unknown type 'InerProduct'; did you mean 'InnerProduct'",
    )
    run.assert_nothing_is_left()
    change(job.net, "InerProduct", "InnerProduct")
    done = run.run(*up)
    assert done.returncode == 0, done.stderr
    run.run("cluster", "down")
    run.assert_nothing_is_left()


def test_a_finished_job_says_where_its_model_is_and_is_not_trained_again(
    run: ClusterRun, job: TinyJob
) -> None:
    up = ("cluster", "up", "--peers", "2", "--solver", str(job.solver))
    first = run.run(*up)
    assert first.returncode == 0, first.stderr
    match = re.search(r"job solver is finished: (/.*\.caffemodel)$", first.stdout, re.MULTILINE)
    assert match, first.stdout
    assert Path(match[1]).stat().st_size > 0
    again = run.run(*up)
    assert again.returncode == 0
    assert "the job is finished already" in again.stdout
    other = run.run(*up, "--set", "warmup=0.5")
    assert other.returncode == ExitCode.CONFLICT
    assert "--job NAME" in other.stderr
    run.assert_nothing_is_left()


def test_a_state_folder_that_cannot_be_written(run: ClusterRun, job: TinyJob) -> None:
    run.folder.write_text("a file, not a folder")
    done = run.run("cluster", "up", "--solver", str(job.solver))
    refused(done, ExitCode.ENVIRONMENT, r"cannot use the folder .*; set \$GOSSIP_CAFFE_STATE")
