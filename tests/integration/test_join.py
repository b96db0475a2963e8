"""Scripts as peers: four of them with a data layer of their own, four with the job's shards; one of each is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gossip_caffe as gc
from gossip_caffe.api.sync import Connection
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.errors import EnvironmentProblem, NotFound, UsageError
from gossip_caffe.observe.checker.verdict import verdict_of
from gossip_caffe.system.processes import is_alive
from tests.cluster_run import ROOT, wait_for
from tests.joined_gpu import trains_on
from tests.tiny_job import write_job

pytestmark = pytest.mark.needs("caffe", "etcd")

EXAMPLE = ROOT / "examples" / "script"
STEP = "peer.solver.step(1)"
INPUTS = """name: "own"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 16 dim: 1 dim: 6 dim: 6 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 16 } } }
"""
TESTED = 1600
SHARDS = """
import sys, time
import caffe
import gossip_caffe as gc
etcd, solver, own, run_dir, name = sys.argv[1:]
with gc.join(caffe.get_solver(own), etcd=etcd, job="tiny", create=solver, run_dir=run_dir, name=name) as peer:
    for batch in peer.batches():
        batch.into(peer.solver.net)
        time.sleep(0.01)
        peer.step()
    print(peer.finished)
"""


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    """An etcd with no other job in it."""
    server = EtcdServer(tmp_path / "etcd")
    server.start()
    yield server
    server.stop()


@contextmanager
def scripts(
    count: int, command: list[str], folder: Path, **more: str
) -> Iterator[list[subprocess.Popen[str]]]:
    """So many processes of a command, each with its number as the last word; all are gone in the end."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]),
        "GLOG_minloglevel": "2",
        "OPENBLAS_NUM_THREADS": "1",
        **more,
    }
    running = [
        subprocess.Popen(
            [*command, f"s{number}"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
        )
        for number in range(count)
    ]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


def peers_that_train(jobs: Connection) -> int:
    """How many peers of the only job train; 0 before there is one."""
    try:
        return sum(peer.state == "training" for peer in jobs.peers())
    except NotFound:
        return 0


def accuracy(model: Path, folder: Path) -> float:
    """The share of new points that the example's net names rightly, by its weights in a file."""
    from gossip_caffe.checkpoint.formats.caffemodel import blobs_in  # noqa: PLC0415

    blobs = blobs_in(model.read_bytes())
    sys.path.insert(0, str(folder))
    try:
        from points import points  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415
    finally:
        sys.path.remove(str(folder))
    values, labels = points(2, 2000)
    hidden = np.maximum(values @ blobs["ip1", 0].reshape(32, -1).T + blobs["ip1", 1], 0)
    found = (hidden @ blobs["ip2", 0].reshape(10, -1).T + blobs["ip2", 1]).argmax(axis=1)
    return float((found == labels).mean())


def one_solver(solver: Path, prefix: str) -> Path:
    """The model that one plain solver leaves in the solver file's folder, which has rank 0 of 1."""
    code = """
import sys, caffe
caffe.solver_rank, caffe.solver_count = lambda: 0, lambda: 1
solver = caffe.get_solver(sys.argv[1])
solver.net.params["ip1"][0].data[...] *= 0.5
solver.solve()
"""
    folder = solver.parent
    command = [sys.executable, "-c", code, str(solver)]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    (model,) = folder.glob(f"{prefix}_iter_*.caffemodel")
    return model


def test_four_scripts_with_a_data_layer_of_their_own_draw_disjoint_records_and_one_is_killed(
    tmp_path: Path, own_etcd: EtcdServer
) -> None:
    for file in EXAMPLE.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    script = tmp_path / "peer.py"
    text = script.read_text()
    assert STEP in text
    assert len(text.splitlines()) <= 35
    script.write_text(text.replace(STEP, f"__import__('time').sleep(0.01); {STEP}"))
    solver = tmp_path / "solver.prototxt"
    solver.write_text(solver.read_text().replace("max_iter: 6000", "max_iter: 2400"))
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    command = [sys.executable, "peer.py", own_etcd.endpoint]
    with scripts(4, command, tmp_path, DRAWN=str(drawn)) as running, gc.connect(own_etcd.endpoint) as jobs:
        wait_for("four peers train", lambda: peers_that_train(jobs) == 4)
        dead = running.pop()
        by_it = drawn / str(dead.pid)
        wait_for("the fourth has drawn", lambda: by_it.exists() and by_it.read_text().count("\n") > 3)
        dead.kill()
        said = [process.communicate(timeout=120)[0] for process in running]
        assert all("is finished" in line for line in said), said
        latest = jobs.checkpoints().latest()
        assert latest.iteration == 2400
    (model, *_) = tmp_path.glob(f"gossip-caffe-run/checkpoints/*/{latest.name}/*.caffemodel")
    sequences: dict[int, set[int]] = {}
    for file in drawn.iterdir():
        lines = [list(map(int, line.split())) for line in file.read_text().splitlines()]
        if len(lines) > 1:  # the check of the job draws once
            for rank, *records in lines:
                sequences.setdefault(rank, set()).update(records)
    assert set(sequences) == {0, 1, 2, 3}
    assert sum(map(len, sequences.values())) == len(set().union(*sequences.values())), (
        "no record of two ranks"
    )
    assert accuracy(model, tmp_path) > accuracy(one_solver(solver, "points"), tmp_path) - 0.02


def test_four_scripts_with_the_jobs_shards_lose_no_record_although_one_is_killed_and_learn_as_one_solver(
    tmp_path: Path, own_etcd: EtcdServer
) -> None:
    job = write_job(tmp_path / "job", iterations=1600, tested=TESTED, noise=130.0)
    own = with_inputs(tmp_path, job.solver, job.net)
    (tmp_path / "shards.py").write_text(SHARDS)
    run_dir = tmp_path / "run"
    command = [sys.executable, "shards.py", own_etcd.endpoint, str(job.solver), str(own), str(run_dir)]
    with scripts(4, command, tmp_path) as running, gc.connect(own_etcd.endpoint) as jobs:
        wait_for("four peers train", lambda: peers_that_train(jobs) == 4)
        running.pop().kill()
        assert [process.communicate(timeout=120)[0] for process in running] == ["True\n"] * 3
        latest = jobs.checkpoints().latest()
    verdict = verdict_of(run_dir)
    assert not verdict.broken
    assert verdict.counters.records_lost == 0
    assert verdict.counters.records_trained == 1600 * 16
    (model, *_) = run_dir.glob(f"checkpoints/*/{latest.name}/*.caffemodel")
    ours, alone = (
        gc.evaluate(job.solver, weights, iterations=TESTED // 16)["accuracy"]
        for weights in (model, one_solver(job.solver, "tiny"))
    )
    assert 0.5 < alone < 1, "a task at which solvers differ"
    assert ours > alone - 0.03


def with_inputs(folder: Path, solver: Path, net: Path) -> Path:
    """The solver of a script that brings the tiny job's batches itself: its net has Input layers."""
    text = net.read_text()
    (folder / "own.prototxt").write_text(INPUTS + text[text.index('layer {\n  name: "ip1"') :])
    kept = [line for line in solver.read_text().splitlines() if not line.startswith("test_")]
    own = folder / "own_solver.prototxt"
    own.write_text("\n".join(kept).replace(str(net), str(folder / "own.prototxt")))
    return own


def test_a_script_leaves_in_good_order_or_dies_with_its_error_and_notices_the_end_of_its_agent(
    tmp_path: Path, own_etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import caffe  # noqa: PLC0415

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    job = write_job(tmp_path / "job", iterations=100_000)
    own = with_inputs(tmp_path, job.solver, job.net)

    def joined(name: str, **more: Any) -> gc.JoinedPeer:
        make = lambda: caffe.get_solver(str(own))  # noqa: E731
        return gc.join(make, etcd=own_etcd.endpoint, job="tiny", name=name, run_dir=tmp_path / "run", **more)

    with pytest.raises(NotFound, match="there is no job 'tiny'"):
        joined("none")
    with gc.connect(own_etcd.endpoint) as jobs:
        with joined("leaves", create=job.solver) as peer:
            batch = next(peer.batches())
            batch.into(peer.solver.net)
            assert peer.step()
            assert jobs.peers().named("leaves").record.pid == peer.agent_pid
            assert (peer.rank, peer.count) == (0, 1)
            assert peer.learning_rate == pytest.approx(0.05, rel=0.1)
            pid = peer.agent_pid
        assert not peer.finished
        assert not is_alive(pid)
        assert not jobs.peers(), "the lease is gone at once"
        assert not any(epoch.owned_chunks for epoch in jobs.shards().open)

        peer = joined("dies")
        with pytest.raises(ZeroDivisionError), peer:
            raise ZeroDivisionError
        assert not is_alive(peer.agent_pid)

        with joined("counts", own_data=True) as peer:
            assert peer.step(3)
            with pytest.raises(UsageError, match="no records to share out"):
                next(peer.batches())
            os.kill(peer.agent_pid, signal.SIGKILL)
            with pytest.raises(EnvironmentProblem, match="SIGKILL"):
                peer.step(100_000)


def test_a_script_trains_on_a_gpu_that_is_not_there(tmp_path: Path, own_etcd: EtcdServer) -> None:
    job = write_job(tmp_path / "job", iterations=3000)
    path = os.pathsep.join([str(ROOT / "tests" / "fake_gpu"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "FAKE_GPUS": "2", "GLOG_minloglevel": "2"}
    trains_on(1, own_etcd.endpoint, job.solver, tmp_path, environment)
