"""A machine that has a job's data elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.errors import ExitCode
from tests.cluster_run import ClusterRun, cluster_run
from tests.tiny_job import write_job

pytestmark = pytest.mark.integration


@pytest.fixture
def run(tmp_path: Path) -> Iterator[ClusterRun]:
    with cluster_run(tmp_path / "state") as found:
        yield found


def test_peers_train_and_test_with_the_data_where_they_are_told_it_is(
    run: ClusterRun, tmp_path: Path, etcd: EtcdServer
) -> None:
    job = write_job(tmp_path / "made", records=64, iterations=60)
    text = job.solver.read_text()
    job.solver.write_text(text.replace("test_interval: 1000000", "test_interval: 20"))
    create = ("job", "create", "moved", "--solver", str(job.solver), "--etcd", etcd.endpoint)
    assert run.run(*create).returncode == 0
    moved = job.folder.rename(tmp_path / "here")
    up = ("cluster", "up", "--peers", "1", "--job", "moved", "--etcd", etcd.endpoint)
    refused = run.run(*up, "--data-root", "nonsense")
    assert refused.returncode == ExitCode.USAGE
    assert "--data-root nonsense: not OLD=NEW" in refused.stderr
    done = run.run(*up, "--data-root", f"{job.folder}={moved}")
    assert done.returncode == 0, done.stderr
    assert "job moved is finished" in done.stdout
    events = "".join(log.read_text() for log in run.folder.rglob("events/*.jsonl"))
    assert '"event":"tested"' in events.replace(" ", "")
