"""Jobs that begin with weights, or go on from a snapshot, that a plain Caffe wrote."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.data.sources.source import measure
from gossip_caffe.job.prototxts.starting import read_start, start_file_problem
from gossip_caffe.job.reading import job_of, read_job, read_model
from gossip_caffe.job.spec.spec import JobSettings, JobSpec
from gossip_caffe.observe.log.events import Event
from gossip_caffe.wire import caffe_wire_pb2 as wire
from tests.caffe_jobs import Job, write_job
from tests.cluster_run import ClusterRun, cluster_run, wait_for
from tests.event_logs import chunks_unclaimed, read_logs
from tests.one_peer import ENVIRONMENT, bare, trained
from tests.tiny_job import write_job as write_tiny_job

pytestmark = [pytest.mark.integration, pytest.mark.needs("caffe", "etcd")]

DONE, MORE = 7, 12
INV = 'lr_policy: "inv" gamma: 0.05 power: 0.75'
SOLVERS = {
    "SGD": f"base_lr: 0.05 momentum: 0.9 weight_decay: 0.0005 {INV}",
    "Adam": f'type: "Adam" base_lr: 0.01 momentum: 0.9 momentum2: 0.999 {INV}',
}
_SNAPSHOT = """
import sys
import caffe
caffe.set_mode_cpu()
solver = caffe.get_solver(sys.argv[1])
solver.step(int(sys.argv[2]))
solver.snapshot()
"""


def snapshot_of_plain_caffe(solver: Path, iterations: int) -> Path:
    """Train with plain Caffe and return the .solverstate; the .caffemodel is beside it."""
    done = subprocess.run(
        [sys.executable, "-c", _SNAPSHOT, str(solver), str(iterations)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **ENVIRONMENT},
        cwd=solver.parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (state,) = solver.parent.rglob("*.solverstate*")
    return state


def made(job: Job, weights: str = "", state: str = "") -> JobSpec:
    model = read_model(job.bare)
    start = read_start(model.solver, model.paths, [weights] if weights else [], state)
    return job_of("test", model, JobSettings(), measure, start)


@pytest.mark.parametrize(
    ("solver", "form"), [("SGD", "BINARYPROTO"), ("Adam", "BINARYPROTO"), ("Adam", "HDF5")]
)
async def test_a_founder_goes_on_from_a_snapshot_as_plain_caffe_does_bit_for_bit(
    tmp_path: Path, solver: str, form: str
) -> None:
    """Weights, momentum, Adam's count and the learning rate are the snapshot's."""
    job = write_job(tmp_path, f'{SOLVERS[solver]} snapshot_prefix: "plain" snapshot_format: {form}')
    state = snapshot_of_plain_caffe(job.bare, DONE)
    spec = made(job, state=str(state))
    assert (spec.start.iteration, spec.schedule.first_iteration) == (DONE, DONE)
    assert spec.budget_samples == (1000 - DONE) * spec.data.batch_records
    peers = await trained(spec, MORE)
    caffes = bare(job.bare, MORE, peers.layout, tmp_path, None, snapshot=state)
    assert np.array_equal(peers.weights, caffes.weights)
    assert not np.array_equal(peers.weights, peers.start)


async def test_a_founder_begins_with_the_weights_that_it_is_given(tmp_path: Path) -> None:
    """Layers that the file does not have keep their fresh weights."""
    job = write_job(tmp_path, f'{SOLVERS["SGD"]} snapshot_prefix: "plain"')
    model = snapshot_of_plain_caffe(job.bare, DONE).with_suffix(".caffemodel")
    job.bare.with_name("net.prototxt").write_text(
        job.bare.with_name("net.prototxt").read_text().replace('name: "conv"', 'name: "conv_new"')
    )
    spec = made(job, weights=model.name)
    assert spec.schedule.first_iteration == 0
    peers, fresh = await trained(spec, MORE), await trained(made(job), MORE)
    start, drawn = peers.layout.split(peers.start), fresh.layout.split(fresh.start)
    saved = {layer.name: layer.blobs for layer in wire.NetParameter.FromString(model.read_bytes()).layer}
    for blob, begun, own in zip(peers.layout.blobs, start, drawn, strict=True):
        if blob.layer in saved:
            assert np.array_equal(begun.reshape(-1), saved[blob.layer][blob.index].data)
        else:
            assert np.array_equal(begun, own)
    assert {blob.layer for blob in peers.layout.blobs} - set(saved) == {"conv_new"}
    caffes = bare(job.bare, MORE, peers.layout, tmp_path, peers.start)
    assert np.array_equal(peers.weights, caffes.weights)


def test_a_file_that_has_changed_since_or_is_gone_founds_nothing(tmp_path: Path) -> None:
    job = write_job(tmp_path, f'{SOLVERS["SGD"]} snapshot_prefix: "plain"')
    state = snapshot_of_plain_caffe(job.bare, DONE)
    start = made(job, state=str(state)).start
    assert start_file_problem(start) == ""
    state.write_bytes(state.read_bytes() + b"\0")
    assert start_file_problem(start) == f"{state} is not the file that the job was made with"
    Path(start.weights[0].path).unlink()
    assert start_file_problem(start) == f"cannot read {start.weights[0].path} (No such file or directory)"


@pytest.fixture
def run(tmp_path: Path) -> Iterator[ClusterRun]:
    with cluster_run(tmp_path / "state") as found:
        yield found


@pytest.mark.parametrize("detach", [(), ("--detach",)], ids=["foreground", "detached"])
def test_a_cluster_goes_on_from_a_snapshot(run: ClusterRun, tmp_path: Path, detach: tuple[str, ...]) -> None:
    job = write_tiny_job(tmp_path / "job", records=64, iterations=60)
    state = snapshot_of_plain_caffe(job.solver, 40)
    done = run.run(
        "cluster", "up", "--peers", "2", "--solver", str(job.solver), "--resume", str(state), *detach
    )
    assert done.returncode == 0, done.stderr
    wait_for("the job is finished", lambda: not (status := run.status()) or status["finished"])
    run.run("cluster", "down")
    logs = read_logs(run.folder / "clusters" / "local" / "run")
    records = [
        (epoch, record)
        for log in logs.values()
        for event in log.events
        if event["event"] == Event.TRAINED
        for epoch, start, stop in event["parts"]
        for record in range(start, stop)
    ]
    assert len(set(records)) == 20 * 16
    chunk_records = read_job("job", job.solver, JobSettings(), measure).data.chunk_records
    assert len(records) - 20 * 16 <= chunks_unclaimed(logs) * chunk_records


def test_a_peer_without_the_file_waits_for_one_that_has_it(
    run: ClusterRun, tmp_path: Path, etcd: EtcdServer
) -> None:
    job = write_tiny_job(tmp_path / "job", records=64, iterations=400)
    weights = snapshot_of_plain_caffe(job.solver, 4).with_suffix(".caffemodel")
    content = weights.read_bytes()
    create = ("job", "create", "begins", "--solver", str(job.solver), "--weights", str(weights))
    assert run.run(*create, "--etcd", etcd.endpoint).returncode == 0
    weights.write_bytes(content[:-1])
    start = ("peer", "start", "--job", "begins", "--etcd", etcd.endpoint, "--run-dir", str(run.folder))
    lacking = run.start(*start, "--name", "lacking")
    log = run.folder / "up.log"
    wait_for("it says what it lacks", lambda: "not the file that the job was made with" in log.read_text())
    weights.write_bytes(content)
    done = run.run(*start, "--name", "having")
    assert "founded the job with tiny_iter_4.caffemodel" in done.stdout, done.stderr
    assert (done.returncode, lacking.wait(60)) == (0, 0)
