"""An SSD trains on peers of which one is killed: no record is lost, and the consensus finds what one solver finds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gossip_caffe.data.sources.source import measure
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.observe.history.account import account_of
from tests.boxed_data import data_layer, mean_average_precision, squares, ssd, write_records
from tests.cluster_run import cluster_run, wait_for

pytestmark = [pytest.mark.long, pytest.mark.needs("caffe", "etcd")]

SIZE, RECORDS, TESTED, BATCH, ITERATIONS, PEERS = 32, 512, 128, 16, 1500, 4
NOISE = 0.03
_SOLVED = """
import sys
import caffe
caffe.set_mode_cpu()
solver = caffe.get_solver(sys.argv[1])
solver.step(int(sys.argv[2]))
solver.net.save(sys.argv[3])
"""
_EVALUATED = """
import json
import sys
import caffe
caffe.set_mode_cpu()
net = caffe.Net(sys.argv[1], sys.argv[2], caffe.TEST)
print(json.dumps(net.forward()["evaluated"].reshape(-1, 5).tolist()))
"""


def caffe(code: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout


def precision(net: Path, model: Path) -> float:
    return mean_average_precision(np.array(json.loads(caffe(_EVALUATED, net, model)), dtype=np.float32))


def test_four_peers_of_which_one_is_killed_learn_what_one_solver_learns(tmp_path: Path) -> None:
    write_records(tmp_path / "train", squares(RECORDS, SIZE, 1))
    write_records(tmp_path / "test", squares(TESTED, SIZE, 2))
    drawn = "batch_sampler { max_sample: 1 max_trials: 1 } batch_sampler { max_trials: 0 }"
    given = "mean_value: 128 scale: 0.01 mirror: true"
    net = tmp_path / "net.prototxt"
    net.write_text(
        data_layer(tmp_path / "train", BATCH, transform=given, annotated_data=drawn)
        + data_layer(tmp_path / "test", TESTED, "TEST", transform="mean_value: 128 scale: 0.01")
        + ssd(SIZE)
    )
    solver = tmp_path / "solver.prototxt"
    solver.write_text(
        f'net: "{net}" base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005 lr_policy: "multistep" gamma: 0.1 '
        f"stepvalue: {ITERATIONS * 3 // 4} max_iter: {ITERATIONS} test_iter: 1 test_interval: 1000000 "
        'eval_type: "detection" snapshot_after_train: false\n'
    )
    with cluster_run(tmp_path / "state") as run:
        process = run.start("cluster", "up", "--peers", str(PEERS), "--solver", str(solver))
        wait_for("all peers train", lambda: len(run.training()) == PEERS)
        assert run.run("cluster", "kill", "p1").returncode == 0
        wait_for("the job is finished", lambda: process.poll() is not None, 400.0)
        log = (run.folder / "up.log").read_text()
        assert process.returncode == 0, log
        spec = read_job("solver", solver, JobSettings(), measure)
        found = account_of(run.folder / "clusters" / "local" / "run", spec)
        assert (found.records_lost, found.peers_killed) == (0, 1)
        assert found.records_trained == spec.budget_samples
        consensus = newest_model(run.folder)
        run.assert_nothing_is_left()
    caffe(_SOLVED, solver, ITERATIONS, tmp_path / "one.caffemodel")
    ours, alone = precision(net, consensus), precision(net, tmp_path / "one.caffemodel")
    print(f"mAP {ours:.4f}, one solver {alone:.4f}")
    assert alone > 0.9  # or there would be nothing to lose
    assert ours > alone - NOISE


def newest_model(folder: Path) -> Path:
    """The model of the newest checkpoint below a folder."""
    return max(folder.rglob("*.caffemodel"), key=lambda path: path.stat().st_mtime_ns)
