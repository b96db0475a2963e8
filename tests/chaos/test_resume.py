"""A job without living peers goes on from its newest checkpoint when one comes back, and loses nothing."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gossip_caffe.data.sources.source import measure
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.observe.history.account import account_of
from gossip_caffe.observe.log.events import Event, read_events
from tests.cluster_run import ClusterRun, cluster_run, wait_for
from tests.tiny_job import TinyJob, write_job

DEATHS = int(os.environ.get("GOSSIP_CAFFE_RESUME_DEATHS", "1"))
"""How often everything is killed; 20 is the long form, for which the budget grows."""
ITERATIONS_A_DEATH = 3_000
NOISE, TESTED = 130.0, 8_000
"""About nine of ten test records can be told, so that a worse model shows."""
WORSE = 0.01
"""How far below that of an undisturbed run the accuracy may be: models of one job differ by a tenth of that."""
UP = ("--set", "lease_ttl_s=5", "--set", "checkpoint_every_samples=20000")


def kill_everything(run: ClusterRun, process: subprocess.Popen[bytes]) -> None:
    """Supervisor, etcd, agents, solvers and loaders, at once."""
    for pid in run.processes():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait()
    run.assert_nothing_is_left()


def events_of(run: ClusterRun, kind: Event) -> list[dict[str, Any]]:
    folder = run.folder / "clusters" / "local" / "run" / "events"
    found = [
        event
        for path in sorted(folder.glob("*.jsonl"))
        for event in read_events(path)
        if event["event"] == kind
    ]
    return sorted(found, key=lambda event: float(str(event["t"])))


def accuracy(run: ClusterRun, job: TinyJob, model: Path) -> float:
    passes = ("--iterations", str(TESTED // 16))
    done = run.run("evaluate", "--solver", str(job.solver), "--weights", str(model), *passes, "--json")
    assert done.returncode == 0, done.stderr
    outputs = {output["name"]: output["means"][0] for output in json.loads(done.stdout)["outputs"]}
    return float(outputs["accuracy"])


def last_model(run: ClusterRun) -> Path:
    """The model of the checkpoint with which the job ended."""
    (finished,) = {event["checkpoint"] for event in events_of(run, Event.FINISHED)}
    return next((run.folder / "clusters" / "local" / "run").glob(f"checkpoints/*/{finished}/*.caffemodel"))


def undisturbed(folder: Path, job: TinyJob) -> float:
    """The accuracy of the same job where nobody dies."""
    with cluster_run(folder) as run:
        process = run.start("cluster", "up", "--peers", "2", "--solver", str(job.solver), *UP)
        wait_for("the undisturbed job is finished", lambda: process.poll() is not None, 600.0)
        assert process.returncode == 0, (run.folder / "up.log").read_text()
        return accuracy(run, job, last_model(run))


@pytest.mark.timeout(900 + 150 * DEATHS)
def test_when_everything_is_killed_at_random_moments_the_job_ends_with_every_record_of_every_epoch_trained(
    tmp_path: Path,
) -> None:
    iterations = ITERATIONS_A_DEATH * (DEATHS + 1)
    job = write_job(
        tmp_path / "job", records=8000, iterations=iterations, tested=TESTED, noise=NOISE, pace_ms=2
    )
    up = ["cluster", "up", "--peers", "2", "--solver", str(job.solver), *UP]
    spec = read_job(
        "solver", job.solver, JobSettings(lease_ttl_s=5.0, checkpoint_every_samples=20_000), measure
    )
    rng = random.Random(4)
    with cluster_run(tmp_path / "state") as run:
        for death in range(DEATHS):
            process = run.start(*up)
            wait_for("both train", lambda: len(run.training()) == 2)
            reached = max(peer["progress_samples"] for peer in run.peers().values())
            goal = reached + rng.random() * 16 * ITERATIONS_A_DEATH

            def far_enough(goal: float = goal) -> bool:
                return any(peer["progress_samples"] >= goal for peer in run.peers().values())

            wait_for(f"it is time for death {death}", far_enough)
            kill_everything(run, process)
        process = run.start(*up)
        wait_for("the job is finished", lambda: process.poll() is not None, 600.0)
        log = (run.folder / "up.log").read_text()
        assert process.returncode == 0, log
        run.assert_nothing_is_left()
        assert len(events_of(run, Event.RESUMED)) == DEATHS
        found = account_of(run.folder / "clusters" / "local" / "run", spec)
        assert (found.records_lost, found.records_trained) == (0, spec.budget_samples)
        assert found.peers_killed == 2 * DEATHS
        reached = accuracy(run, job, last_model(run))
    expected = undisturbed(tmp_path / "undisturbed", job)
    print(f"accuracy {reached:.4f} after {DEATHS} deaths of everything, {expected:.4f} undisturbed")
    assert 0.5 < expected < 0.99, "the job is too hard, or too easy, to tell a worse model"
    assert reached >= expected - WORSE


def test_a_job_goes_back_to_a_checkpoint_on_purpose_and_only_when_nobody_lives(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", records=4000, iterations=3_000, pace_ms=20)
    up = ["cluster", "up", "--peers", "2", "--solver", str(job.solver), "--set", "lease_ttl_s=5"]
    spec = read_job("solver", job.solver, JobSettings(lease_ttl_s=5.0), measure)
    with cluster_run(tmp_path / "state") as run:
        process = run.start(*up)
        wait_for("some checkpoints are made", lambda: len(events_of(run, Event.CHECKPOINTED)) >= 3)
        made = [event["checkpoint"] for event in events_of(run, Event.CHECKPOINTED)]
        etcd = run.status()["etcd"]
        living = run.run(
            *(
                "peer",
                "start",
                "--allow-code",
                "--job",
                "solver",
                "--etcd",
                etcd,
                "--from-checkpoint",
                made[-1],
            )
        )
        assert living.returncode != 0
        assert "while its peers live" in living.stderr
        job.hurry()
        wait_for("the job is finished", lambda: process.poll() is not None)
        assert process.returncode == 0, (run.folder / "up.log").read_text()
        (unknown := run.start(*up, "--from-checkpoint", "77")).wait()
        assert unknown.returncode != 0
        back_to = events_of(run, Event.CHECKPOINTED)[-3]
        process = run.start(*up, "--from-checkpoint", back_to["checkpoint"])
        wait_for("the job is finished again", lambda: process.poll() is not None)
        log = (run.folder / "up.log").read_text()
        assert process.returncode == 0, log
        assert f"goes back to checkpoint {back_to['checkpoint']}" in log
        (resumed,) = events_of(run, Event.RESUMED)
        assert resumed["checkpoint"] == back_to["checkpoint"]
        assert resumed["progress_samples"] == back_to["progress_samples"] < spec.budget_samples
        assert resumed["freed_samples"] == spec.budget_samples - back_to["progress_samples"]
        found = account_of(run.folder / "clusters" / "local" / "run", spec)
        assert (found.records_lost, found.records_trained) == (0, spec.budget_samples)
        run.assert_nothing_is_left()


def test_when_all_peers_have_left_new_ones_go_on_from_the_checkpoint_that_they_left(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", iterations=400_000, pace_ms=10)
    with cluster_run(tmp_path / "state") as run:
        run.start("cluster", "up", "--peers", "2", "--solver", str(job.solver))
        wait_for("both train", lambda: len(run.training()) == 2)
        wait_for(
            "some of it is done",
            lambda: any(peer["progress_samples"] > 5000 for peer in run.peers().values()),
        )
        assert run.run("cluster", "scale", "0").returncode == 0
        assert run.run("cluster", "scale", "1").returncode == 0
        back = wait_for("a new peer trains", lambda: run.training().get("p2"))
        assert back["progress_samples"] > 5000
        log = (run.folder / "clusters" / "local" / "logs" / "p2.log").read_text()
        assert "from checkpoint" in log
        assert run.run("cluster", "down").returncode == 0
        run.assert_nothing_is_left()


def test_peers_whose_disks_died_with_them_are_replaced_by_others_that_go_on_from_the_jobs_store(
    tmp_path: Path,
) -> None:
    job = write_job(tmp_path / "job", records=4000, iterations=5_000, pace_ms=10)
    up = ["cluster", "up", "--peers", "2", "--solver", str(job.solver), "--set", "lease_ttl_s=5"]
    up += ["--set", "checkpoint_every_samples=8000"]
    up += ["--set", f"checkpoint_store=file://{tmp_path}/store", "--set", "keep_checkpoints=2"]
    with cluster_run(tmp_path / "state") as run:
        process = run.start(*up)
        wait_for("some are in the store", lambda: len(events_of(run, Event.KEPT)) >= 4)
        kill_everything(run, process)
        kept = {event["checkpoint"] for event in events_of(run, Event.KEPT)}
        assert 1 <= len(list((tmp_path / "store").glob("solver-*/*"))) <= 4
        shutil.rmtree(run.folder / "clusters" / "local" / "run" / "checkpoints")
        job.hurry()
        process = run.start(*up)
        wait_for("the job is finished", lambda: process.poll() is not None)
        assert process.returncode == 0, (run.folder / "up.log").read_text()
        (resumed,) = events_of(run, Event.RESUMED)
        assert resumed["checkpoint"] in kept
        run.assert_nothing_is_left()
