"""Wrong solvers, nets and data: each ends with one line that names the file and the cause, and disturbs nobody."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gossip_caffe.cli import main
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.errors import ExitCode
from tests.bad_inputs import BAD, Bad, source
from tests.cluster_run import ClusterRun, wait_for
from tests.tiny_job import TinyJob, write_job


@pytest.fixture
def job(tmp_path: Path) -> TinyJob:
    return write_job(tmp_path / "job", records=64, iterations=40)


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Run a command in this process, as the shell does; afterwards no process that it started is left."""
    marked = ClusterRun(tmp_path / "state")
    for name, value in marked.environment.items():
        monkeypatch.setenv(name, value)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gossip-caffe", *words])
        with pytest.raises(SystemExit) as end:
            main.main()
        out, err = capfd.readouterr()
        return int(end.value.code or 0), out, err

    yield call
    wait_for("no process is left", lambda: not marked.processes(), 20.0)


def refused(result: tuple[int, str, str], bad: Bad) -> None:
    """One line with the cause, the exit code, and nothing else but the news that it takes a while."""
    code, out, err = result
    *news, line = err.splitlines()
    assert (code, out) == (bad.code, ""), err
    assert all(entry.endswith("…") for entry in news), err
    assert line.startswith("gossip-caffe: ")
    assert re.search(bad.says, line), line


def test_the_job_that_is_made_wrong_below_is_right(
    job: TinyJob, run: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = run("job", "validate", str(job.solver))
    assert code == 0, err
    assert all(entry.endswith("…") for entry in err.splitlines()), err
    assert out == f"{job.solver} can be trained: 640 samples of 64 records\n"


@pytest.mark.parametrize("bad", BAD, ids=[bad.name.replace(" ", "-") for bad in BAD])
def test_a_bad_input_is_one_line_with_file_and_cause(
    bad: Bad, job: TinyJob, run: Callable[..., tuple[int, str, str]]
) -> None:
    bad.make(job)
    options = bad.options.replace("HERE", str(job.folder)).split()
    refused(run("job", "validate", str(job.solver), *options), bad)


@pytest.mark.parametrize("name", ["an unknown field", "no LMDB", "no loss", "a bottom from nowhere"])
def test_nothing_of_a_bad_job_gets_into_etcd(
    name: str, job: TinyJob, run: Callable[..., tuple[int, str, str]], etcd: EtcdServer
) -> None:
    bad = next(bad for bad in BAD if bad.name == name)
    bad.make(job)
    create = ("job", "create", "never-made", "--solver", str(job.solver), "--etcd", etcd.endpoint)
    refused(run(*create), bad)
    refused(
        run("job", "show", "never-made", "--etcd", etcd.endpoint),
        Bad("", bad.make, "no job", ExitCode.NOT_FOUND),
    )


@pytest.mark.parametrize(
    ("change", "notice"),
    [
        ("base_lr: 0", r"solver\.prototxt:\d+: base_lr is 0: nothing is learned, as in Caffe"),
        (
            "solver_mode: GPU",
            r"solver\.prototxt:\d+: solver_mode: GPU is not followed: peers train on the CPU",
        ),
    ],
)
def test_what_caffe_takes_as_well_is_a_notice_and_no_refusal(
    change: str, notice: str, job: TinyJob, run: Callable[..., tuple[int, str, str]]
) -> None:
    name = change.partition(":")[0]
    text, count = re.subn(rf"(?m)^{name}:.*$", change, job.solver.read_text())
    job.solver.write_text(text if count else f"{text}\n{change}\n")
    code, _, err = run("job", "validate", str(job.solver))
    assert code == 0, err
    assert re.search(notice, err), err


def test_what_caffe_ignores_in_a_memory_data_layer_is_ignored_and_said(
    job: TinyJob, run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = "memory_data_param { batch_size: 8 channels: 1 height: 6 width: 6 }"
    source("MemoryData", f"include {{ phase: TRAIN }} {shape} transform_param {{ scale: 0.0039 }}")(job)
    (job.folder / "mine.py").write_text(
        "import numpy\n\ndef train():\n    return [(numpy.zeros((1, 6, 6), 'f4'), n % 10) for n in range(64)]\n"
    )
    monkeypatch.chdir(job.folder)
    code, _, err = run("job", "validate", str(job.solver), "--dataset", "mine:train")
    assert code == 0, err
    assert "transform_param of layer 'data' is ignored, as by Caffe" in err
