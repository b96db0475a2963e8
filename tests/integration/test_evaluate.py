"""``gossip-caffe evaluate``: what a job's weights are worth, from its peers, its checkpoints or a file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gossip_caffe.errors import ExitCode
from tests.cluster_run import ClusterRun, cluster_run, one_line, wait_for
from tests.tiny_job import TinyJob, write_job

pytestmark = pytest.mark.needs("caffe", "etcd")

_PLAIN_CAFFE = """
import json
import sys
import caffe

caffe.set_mode_cpu()
solver = caffe.get_solver(sys.argv[1])
solver.step(50)
solver.net.save(sys.argv[2])
test = solver.test_nets[0]
test.share_with(solver.net)
sums = {name: 0.0 for name in test.outputs}
for _ in range(4):
    for name, value in test.forward().items():
        sums[name] += float(value) / 4
print(json.dumps(sums))
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[ClusterRun]:
    with cluster_run(tmp_path / "state") as made:
        yield made


@pytest.fixture
def job(tmp_path: Path) -> TinyJob:
    return write_job(tmp_path / "job", iterations=1_000_000, pace_ms=20)


def means(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return {output["name"]: output["means"][0] for output in json.loads(done.stdout)["outputs"]}


def test_the_means_of_a_file_are_plain_caffes(run: ClusterRun, job: TinyJob) -> None:
    model = job.folder / "some.caffemodel"
    done = subprocess.run(
        [sys.executable, "-c", _PLAIN_CAFFE, str(job.solver), str(model)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    said = ("evaluate", "--solver", str(job.solver), "--weights", str(model))
    assert means(run.run(*said, "--json")) == pytest.approx(json.loads(done.stdout), rel=1e-5)
    table = run.run(*said).stdout
    assert table.startswith(f"job solver, {model}\nNET  OUTPUT")
    assert "accuracy" in table
    run.assert_nothing_is_left()


def test_a_running_job_is_tested_from_a_checkpoint_and_from_its_peers(run: ClusterRun, job: TinyJob) -> None:
    run.start("cluster", "up", "--peers", "2", "--solver", str(job.solver))
    wait_for(
        "it has trained", lambda: any(peer["progress_samples"] > 20_000 for peer in run.peers().values())
    )
    # The founder may have made another one before anything was done: its name is longer.
    made = (run.folder / "clusters" / "local" / "run" / "checkpoints").glob("*/00000000000000-*")
    first = run.run("evaluate", "--checkpoint", min((path.name for path in made), key=len), "--json")
    assert means(first)["accuracy"] < 0.5
    assert json.loads(first.stdout)["iteration"] == 0
    live = run.run("evaluate", "--live", "--json")
    assert means(live)["accuracy"] > 0.9
    assert sorted(json.loads(live.stdout)["contributors"]) == ["p0", "p1"]
    unknown = run.run("evaluate", "--checkpoint", "nine")
    assert unknown.returncode == ExitCode.NOT_FOUND
    assert "no checkpoint 'nine'; choose one of 0000" in unknown.stderr
    assert len(run.training()) == 2
    assert run.run("cluster", "down").returncode == 0
    run.assert_nothing_is_left()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--live", "--weights", "a"), ExitCode.USAGE, "exclude each other"),
        (("--solver", "solver.prototxt"), ExitCode.USAGE, "--solver goes with a file"),
        (
            ("--solver", "solver.prototxt", "--weights", "a"),
            ExitCode.NOT_FOUND,
            "there is no weight file at a",
        ),
        (("--solver", "none.prototxt", "--weights", "a"), ExitCode.USAGE, "none.prototxt"),
        ((), ExitCode.USAGE, "no etcd is given"),
    ],
)
def test_a_mistake_is_one_line(
    run: ClusterRun, job: TinyJob, words: tuple[str, ...], code: ExitCode, says: str
) -> None:
    done = run.run("evaluate", *words, cwd=job.folder)
    assert done.returncode == code
    assert says in one_line(done)


def test_a_solver_that_tests_nothing_cannot_be_evaluated(run: ClusterRun, job: TinyJob) -> None:
    text = job.solver.read_text()
    job.solver.write_text("".join(line for line in text.splitlines(keepends=True) if "test_i" not in line))
    (job.folder / "a.caffemodel").write_bytes(b"")
    done = run.run("evaluate", "--solver", "solver.prototxt", "--weights", "a.caffemodel", cwd=job.folder)
    assert done.returncode == ExitCode.MODEL
    assert "cannot be tested: the solver names no test_iter" in done.stderr


def test_weights_that_caffe_refuses_are_one_line(run: ClusterRun, job: TinyJob) -> None:
    (job.folder / "a.caffemodel").write_bytes(b"no weights at all")
    done = run.run("evaluate", "--solver", "solver.prototxt", "--weights", "a.caffemodel", cwd=job.folder)
    assert done.returncode == ExitCode.MODEL
    assert one_line(done).startswith("gossip-caffe: the test failed: Caffe refused ")
