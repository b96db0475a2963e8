"""``test``, ``time``, ``device_query`` and Caffe's flags of ``train``, beside plain Caffe on the same files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gossip_caffe.errors import ExitCode
from tests.cluster_run import ClusterRun, cluster_run, one_line
from tests.tiny_job import TinyJob, write_job

pytestmark = pytest.mark.needs("caffe", "etcd")

_SCORE = """
import json
import sys
import caffe

caffe.set_mode_cpu()
solver = caffe.get_solver(sys.argv[1])
solver.step(30)
solver.net.save(sys.argv[2])
net = solver.test_nets[0]
net.share_with(solver.net)
batches = []
for _ in range(3):
    net.forward()
    batches.append({name: float(net.blobs[name].data) for name in net.outputs})
print(json.dumps(batches))
"""
_TIME = """
import json
import sys
from time import perf_counter
import caffe

caffe.set_mode_cpu()
net = caffe.Net(sys.argv[1], caffe.TRAIN)
count = len(net.layers)
net.forward(), net.backward()
spent = [0.0] * count
for _ in range(int(sys.argv[2])):
    for step, order in ((net._forward, range(count)), (net._backward, reversed(range(count)))):
        for index in order:
            at = perf_counter()
            step(index, index)
            spent[index] += perf_counter() - at
print(json.dumps({name: part / sum(spent) for name, part in zip(net._layer_names, spent)}))
"""
CONVOLUTIONS = """
layer {{ name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {{
  shape {{ dim: {batch} dim: 3 dim: 24 dim: 24 }} shape {{ dim: {batch} }}
  data_filler {{ type: "constant" value: 0.5 }} data_filler {{ type: "constant" value: 1 }} }} }}
layer {{ name: "small" type: "Convolution" bottom: "data" top: "small"
  convolution_param {{ num_output: 8 kernel_size: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "relu" type: "ReLU" bottom: "small" top: "small" }}
layer {{ name: "large" type: "Convolution" bottom: "small" top: "large"
  convolution_param {{ num_output: 32 kernel_size: 5 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "large" top: "ip"
  inner_product_param {{ num_output: 10 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
"""

ATTEMPTS = 4
"""A machine that is busy in one of the two measurements shifts the shares: then both are made again."""
MORE = """
layer { name: "ip3" type: "InnerProduct" bottom: "ip1" top: "ip3" include { min_level: 3 stage: "r" }
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[ClusterRun]:
    with cluster_run(tmp_path / "state") as made:
        yield made


@pytest.fixture
def job(tmp_path: Path) -> TinyJob:
    return write_job(tmp_path / "job", iterations=60)


def plain(script: str, *words: object) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return json.loads(done.stdout)


def texts(log: str) -> list[str]:
    """The lines of a log without glog's head."""
    heads = re.compile(r"I\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ caffe\.cpp:\d+\] (.*)")
    return [found[1] for line in log.splitlines() if (found := heads.fullmatch(line))]


def test_the_batches_and_means_of_a_test_are_plain_caffes(run: ClusterRun, job: TinyJob) -> None:
    model = job.folder / "some.caffemodel"
    batches = plain(_SCORE, job.solver, model)
    words = ("-model", "net.prototxt", "-weights=some.caffemodel", "-iterations", "3", "-log_dir", ".")
    done = run.run("test", *words, "--json", cwd=job.folder)
    assert done.returncode == 0, done.stderr
    lines = texts(done.stderr)
    wanted = [f"Batch {n}, {name} = {v:.6g}" for n, batch in enumerate(batches) for name, v in batch.items()]
    assert lines[:2] == ["Use CPU.", "Running for 3 iterations."]
    assert lines[2:-3] == wanted
    means = {name: float(sum(np.float32(batch[name]) for batch in batches) / 3) for name in batches[0]}
    loss = means["loss"]
    end = [f"accuracy = {means['accuracy']:.6g}", f"loss = {loss:.6g} (* 1 = {loss:.6g} loss)"]
    assert lines[-3:] == [f"Loss: {loss:.6g}", *end]
    assert texts((job.folder / "caffe.INFO").read_text()) == lines
    told = json.loads(done.stdout)
    assert told["loss"] == pytest.approx(loss)
    assert {output["name"]: output["means"][0] for output in told["outputs"]} == pytest.approx(means)


def test_the_shares_of_the_layers_are_those_of_plain_caffe(run: ClusterRun, tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(CONVOLUTIONS.format(batch=4))
    for _ in range(ATTEMPTS):
        done = run.run("time", "--model", str(net), "--iterations", "30", "--json")
        assert done.returncode == 0, done.stderr
        shares = {layer["name"]: layer["share"] for layer in json.loads(done.stdout)["layers"]}
        caffes = plain(_TIME, net, 30)
        assert sum(shares.values()) == pytest.approx(1)
        if shares == pytest.approx(caffes, abs=0.1):
            break
    assert shares == pytest.approx(caffes, abs=0.1)
    lines = texts(done.stderr)
    assert sum(line.startswith("Iteration: ") for line in lines) == 30
    assert lines[-1] == "*** Benchmark ends ***"
    assert any(re.fullmatch(r" +large +backward: \S+ ms\.", line) for line in lines)


def test_train_takes_caffes_words_and_writes_its_log(run: ClusterRun, job: TinyJob) -> None:
    job.net.write_text(job.net.read_text() + MORE)
    words = ("-solver=solver.prototxt", "-level", "3", "-stage", "r", "-logtostderr", "-log_dir", ".")
    done = run.run("train", *words, "-iterations", "5", "--json", cwd=job.folder)
    assert done.returncode == 0, done.stderr
    assert "--iterations has no effect in 'train': max_iter" in done.stderr
    assert json.loads(done.stdout)["iterations"] == 60
    assert "Optimization Done." in (job.folder / "caffe.INFO").read_text()
    assert b"ip3" in (job.folder / "tiny_iter_60.caffemodel").read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("test --model net.prototxt --weights none", ExitCode.NOT_FOUND, "there is no weight file at none"),
        ("test --model none --weights net.prototxt", ExitCode.MODEL, "there is no net at"),
        ("time --model solver.prototxt", ExitCode.MODEL, "the net cannot be timed: .*no field named"),
    ],
)
def test_a_mistake_is_one_line(
    run: ClusterRun,
    job: TinyJob,
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    code: ExitCode,
    says: str,
) -> None:
    monkeypatch.setenv("GLOG_minloglevel", "1")
    done = run.run(*words.split(), cwd=job.folder)
    assert done.returncode == code, done.stderr
    assert re.search(says, one_line(done))
