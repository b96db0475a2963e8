"""A job whose data set has corrupt records: they end it with a name, or are left out of it by name and number."""

from __future__ import annotations

from pathlib import Path

import lmdb
import pytest

from gossip_caffe.data.sources.source import measure
from gossip_caffe.errors import ExitCode
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.observe.history.account import account_of
from gossip_caffe.observe.log.events import Event, read_events
from gossip_caffe.wire import caffe_wire_pb2 as wire
from tests.cluster_run import cluster_run, wait_for
from tests.tiny_job import TinyJob, write_job

pytestmark = [pytest.mark.integration, pytest.mark.needs("caffe", "etcd")]

RECORDS, BATCH = 160, 8
BAD = {5, *range(24, 32), 159}
"""One alone, a whole batch of the first epoch, and the last."""


@pytest.fixture
def job(tmp_path: Path) -> TinyJob:
    job = write_job(tmp_path / "job", records=RECORDS, batch=BATCH, iterations=40)
    job.solver.write_text(f"{job.solver.read_text()}iter_size: 2\n")
    with lmdb.open(str(job.train)) as environment, environment.begin(write=True) as writing:
        for index in BAD:
            writing.put(b"%08d" % index, b"\xff\xff")
    return job


def test_corrupt_records_are_left_out_and_counted_and_the_rest_is_trained(
    tmp_path: Path, job: TinyJob
) -> None:
    with cluster_run(tmp_path / "state") as run:
        words = ("cluster", "up", "--peers", "1", "--solver", str(job.solver))
        settings = ("--set", "corrupt_records=skip", "--set", "shuffle=false")
        done = run.run(*words, *settings)
        assert done.returncode == 0, done.stdout + done.stderr
        folder = run.folder / "clusters" / "local" / "run"
        found = account_of(folder, read_job("job", job.solver, JobSettings(), measure))
        epochs = 40 * BATCH * 2 // RECORDS
        assert found.records_skipped == epochs * len(BAD)
        assert found.records_trained == epochs * (RECORDS - len(BAD))
        assert (found.records_lost, found.records_twice) == (0, 0)
        (log,) = (folder / "events").glob("*.jsonl")
        reasons = {event["reason"] for event in read_events(log) if event["event"] == Event.SKIPPED}
        assert f"{job.train}, key '00000005': not a Datum" in reasons
        run.assert_nothing_is_left()


def test_by_default_the_first_corrupt_record_ends_the_job_by_name(tmp_path: Path, job: TinyJob) -> None:
    with cluster_run(tmp_path / "state") as run:
        process = run.start("cluster", "up", "--peers", "1", "--solver", str(job.solver))
        wait_for("it has ended", lambda: process.poll() is not None)
        assert process.returncode == ExitCode.MODEL
        assert f"{job.train}, key '0000" in (run.folder / "up.log").read_text()
        run.assert_nothing_is_left()


def spoilt(folder: Path, label: int, *, phase: str = "train") -> TinyJob:
    """A job of which record 33 has a label that its net does not take."""
    job = write_job(folder, records=RECORDS, batch=BATCH, iterations=40)
    with lmdb.open(str(job.folder / phase)) as environment, environment.begin(write=True) as writing:
        datum = wire.Datum.FromString(writing.get(b"%08d" % 33) or b"")
        datum.label = label
        writing.put(b"%08d" % 33, datum.SerializeToString())
    return job


@pytest.mark.parametrize("label", [10, 5_000_000, -1])
def test_a_label_beyond_the_nets_outputs_is_refused_before_anything_is_made(
    tmp_path: Path, label: int
) -> None:
    job = spoilt(tmp_path / "job", label)
    with cluster_run(tmp_path / "state") as run:
        done = run.run("job", "validate", str(job.solver))
        assert done.returncode == ExitCode.USAGE
        assert f"{job.train}, key '00000033': label {label}, but layer 'loss' takes 0 to 9" in done.stderr


def test_a_wrong_label_of_a_test_is_said_and_no_reason_not_to_train(tmp_path: Path) -> None:
    job = spoilt(tmp_path / "job", 10, phase="test")
    with cluster_run(tmp_path / "state") as run:
        done = run.run("job", "validate", str(job.solver))
        assert done.returncode == 0, done.stderr
        assert f"tests of {job.net} will fail: {job.test}, key '00000033': label 10, but" in done.stderr


def test_without_caffe_the_nets_text_says_how_many_classes_there_are(tmp_path: Path) -> None:
    job = spoilt(tmp_path / "job", 10)
    with cluster_run(tmp_path / "state") as run:
        done = run.run("job", "validate", str(job.solver), "--unchecked")
        assert done.returncode == ExitCode.USAGE
        assert "key '00000033': label 10, but layer 'loss' takes 0 to 9" in done.stderr


def test_labels_beyond_the_nets_outputs_are_left_out_like_other_corrupt_records(tmp_path: Path) -> None:
    job = spoilt(tmp_path / "job", 5_000_000)
    with cluster_run(tmp_path / "state") as run:
        words = ("cluster", "up", "--peers", "1", "--solver", str(job.solver))
        done = run.run(*words, "--set", "corrupt_records=skip")
        assert done.returncode == 0, done.stdout + done.stderr
        (log,) = (run.folder / "clusters" / "local" / "run" / "events").glob("*.jsonl")
        events = list(read_events(log))
        skipped = [event for event in events if event["event"] == Event.SKIPPED]
        assert {event["record"] for event in skipped} == {33}
        assert "label 5000000" in str(skipped[0]["reason"])
        assert not [event for event in events if event["event"] == Event.SOLVER_DIED]
        run.assert_nothing_is_left()


DEADLY = 9


@pytest.fixture
def deadly(tmp_path: Path) -> TinyJob:
    """A job of which record 33 kills the solver: it alone has the label 9."""
    job = write_job(tmp_path / "job", records=RECORDS, batch=BATCH, iterations=40)
    with lmdb.open(str(job.train)) as environment, environment.begin(write=True) as writing:
        for index in range(RECORDS):
            datum = wire.Datum.FromString(writing.get(b"%08d" % index) or b"")
            datum.label = DEADLY if index == 33 else min(datum.label, DEADLY - 1)
            writing.put(b"%08d" % index, datum.SerializeToString())
    layer = f"""layer {{
  name: "deadly" type: "Python" bottom: "label" top: "deadly" include {{ phase: TRAIN }}
  python_param {{ module: "tests.deadly_layer" layer: "Deadly" param_str: "{DEADLY}" }}
}}
"""
    job.net.write_text(job.net.read_text() + layer)
    return job


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_batch_at_which_the_solver_dies_is_named_and_left_out_on_request(
    tmp_path: Path, deadly: TinyJob, policy: str
) -> None:
    with cluster_run(tmp_path / "state") as run:
        words = ("cluster", "up", "--peers", "1", "--solver", str(deadly.solver))
        settings = ("--set", f"corrupt_records={policy}", "--set", "shuffle=false", "--allow-code")
        done = run.run(*words, *settings)
        said = f"{done.stdout}{done.stderr}"
        if policy == "stop":
            assert done.returncode == ExitCode.MODEL, said
            assert "again at the same batch: records 32 to 39" in said
            assert f"({deadly.train}, key '00000032' to key '00000039')" in said
        else:
            assert done.returncode == 0, said
            (log,) = (run.folder / "clusters" / "local" / "run" / "events").glob("*.jsonl")
            events = list(read_events(log))
            assert len([event for event in events if event["event"] == Event.SOLVER_DIED]) == 2
            skipped = {event["record"] for event in events if event["event"] == Event.SKIPPED}
            assert skipped == set(range(32, 40))
        run.assert_nothing_is_left()
