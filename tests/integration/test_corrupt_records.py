"""A job whose data set has corrupt records: they end it with a name, or are left out of it by name and number."""

from __future__ import annotations

from pathlib import Path

import lmdb
import pytest

from gossip_caffe.data.source import measure
from gossip_caffe.errors import ExitCode
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec import JobSettings
from gossip_caffe.observe.events import Event, read_events
from gossip_caffe.observe.history import account_of
from tests.cluster_run import cluster_run, wait_for
from tests.tiny_job import TinyJob, write_job

pytestmark = pytest.mark.integration

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
