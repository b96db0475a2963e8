"""``train --log`` and ``--tensorboard``: Caffe's own tool and a reader of event files find what the event log holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gossip_caffe.observe.log.events import Event
from gossip_caffe.observe.log.reading import read_histories
from tests.caffe_tools import parsed
from tests.cluster_run import ClusterRun, cluster_run, one_line
from tests.tiny_job import TinyJob, write_job

pytestmark = pytest.mark.needs("caffe", "etcd")

ITERATIONS, DISPLAY, TEST = 400, 40, 100


def job_with_lines(folder: Path) -> TinyJob:
    job = write_job(folder, iterations=ITERATIONS)
    text = job.solver.read_text()
    usual = "test_interval: 1000000\ntest_initialization: false"
    assert usual in text
    job.solver.write_text(text.replace(usual, f"test_interval: {TEST}\ndisplay: {DISPLAY}"))
    return job


@pytest.mark.parametrize("peers", [1, 2])
def test_parse_log_finds_a_row_for_each_display_and_each_test(tmp_path: Path, peers: int) -> None:
    job, log = job_with_lines(tmp_path / "job"), tmp_path / "train.log"
    with cluster_run(tmp_path / "state") as run:
        done = run.run("train", str(job.solver), "--peers", str(peers), "--log", str(log), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    train, test = parsed(log, tmp_path / "tools")
    shown = [int(number) for number in re.findall(r"^Iteration (\d+), loss", done.stdout, re.MULTILINE)]
    tests = re.findall(r"^iteration ([\d,]+): accuracy = (\S+),", done.stdout, re.MULTILINE)
    assert [row["NumIters"] for row in train] == shown
    assert [(row["NumIters"], row["accuracy"]) for row in test] == [
        (float(number.replace(",", "")), float(accuracy)) for number, accuracy in tests
    ]
    assert len(tests) == ITERATIONS // TEST + 1
    if peers == 1:  # as plain Caffe: every iteration that is due
        assert shown == list(range(0, ITERATIONS, DISPLAY))
    else:
        assert len(shown) >= 2
    for row in train:
        assert row["LearningRate"] > 0
        assert row["loss"] > 0


def test_a_log_that_cannot_be_written_is_one_line_before_anything_starts(tmp_path: Path) -> None:
    job = job_with_lines(tmp_path / "job")
    with cluster_run(tmp_path / "state") as run:
        done = run.run("train", str(job.solver), "--log", str(tmp_path / "none" / "x.log"), cwd=tmp_path)
    assert done.returncode != 0
    assert "give --log a file that can be written" in done.stderr
    assert one_line(done)


def cluster_with_board(run: ClusterRun, folder: Path) -> dict[str, list[Any]]:
    """Train with two peers; returns each peer's events."""
    job = job_with_lines(folder / "job")
    board = ("--tensorboard", "board")
    done = run.run("cluster", "up", "--peers", "2", "--solver", str(job.solver), *board, cwd=folder)
    assert done.returncode == 0, done.stderr
    histories = read_histories(run.folder / "clusters" / "local" / "run" / "events")
    return {peer: list(history.events) for peer, history in histories.items()}


@pytest.mark.needs("tbparse")
def test_a_reader_of_event_files_finds_the_losses_of_the_event_log(tmp_path: Path) -> None:
    from tbparse import SummaryReader  # noqa: PLC0415

    with cluster_run(tmp_path / "state") as run:
        events = cluster_with_board(run, tmp_path)
        logged = run.run("logs", "--format", "caffe").stdout
    assert len(parsed(_file(tmp_path / "all.log", logged), tmp_path / "tools")[1]) == ITERATIONS // TEST + 1
    for peer in ("p0", "p1"):
        found = SummaryReader(str(tmp_path / "board" / peer)).scalars
        reports = [event for event in events[peer] if event["event"] == Event.PROGRESS]
        losses = found[found["tag"] == "train/loss"]
        assert losses["step"].tolist() == [event["iteration"] for event in reports]
        assert losses["value"].tolist() == [float(np.float32(event["loss"])) for event in reports]
    tests = [event for log in events.values() for event in log if event["event"] == Event.TESTED]
    everything = SummaryReader(str(tmp_path / "board")).scalars
    accuracies = everything[everything["tag"] == "test/accuracy"]
    assert sorted(accuracies["step"].tolist()) == sorted(event["iteration"] for event in tests)


def _file(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
