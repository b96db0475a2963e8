"""deploy/slurm under a real Slurm of four nodes: arrays of peers and of workers, preempted, requeued and cancelled."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from gossip_caffe.observe.checker.verdict import verdict_of
from tests.cluster_run import wait_for
from tests.known_words import unknown
from tests.system.slurm_cluster import GRACE_S, PROGRAMS, Slurm, slurm
from tests.tiny_job import write_job

SCRIPTS = Path(__file__).parents[2] / "deploy" / "slurm"
PEERS, ETCD, STUDY = (str(SCRIPTS / f"{name}.sbatch") for name in ("peers", "etcd", "study"))
TASKS = 3
STUDY_FILE = """name = "tiny"
solver = "solver.prototxt"
trials = 4
samples = 9600
tests = 3
objective = "accuracy"
pruner = "asha"
sampler = {{ kind = "random" }}
store = "file://{store}"
[space]
"solver.base_lr" = {{ float = [1e-4, 1e-1], log = true }}
"""

pytestmark = pytest.mark.needs("caffe", "etcd", *PROGRAMS)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Slurm]:
    with slurm(tmp_path / "slurm") as made:
        made.variables |= {
            "GOSSIP_CAFFE_GRACE": str(GRACE_S - 3),
            "GOSSIP_CAFFE_ALLOW_CODE": "1",
        }
        yield made


def with_etcd(cluster: Slurm) -> tuple[str, str]:
    """Submit the etcd; returns its job and its address as soon as the address is there."""
    job = cluster.submit("--partition=prod", ETCD)
    file = cluster.shared / "etcd.address"
    wait_for("the etcd has written its address", file.exists)
    return job, file.read_text().strip()


def training(cluster: Slurm, etcd: str) -> list[str]:
    """The names of the peers that train."""
    said = json.loads(cluster.run("gossip-caffe", "peer", "list", "--etcd", etcd, "--json"))
    return sorted(peer["peer"] for peer in said if peer["state"] == "training")


def names(array: str) -> list[str]:
    """The peers of an array."""
    return [f"s{array}-{task}" for task in range(TASKS)]


def preempted(cluster: Slurm, array: str, running: Counter[str]) -> str:
    """The task that waits while the others run; "" as long as there is none."""
    states = cluster.states(array)
    waiting = [task for task, state in states.items() if state == "PENDING"]
    return waiting[0] if Counter(states.values()) == running and waiting else ""


def test_an_array_is_preempted_requeued_cancelled_and_goes_on_from_the_store(
    cluster: Slurm, tmp_path: Path
) -> None:
    job = write_job(cluster.shared / "job", iterations=6000, pace_ms=50)
    etcd_job, etcd = with_etcd(cluster)
    store = f"checkpoint_store=file://{cluster.shared / 'store'}"
    create = ("gossip-caffe", "job", "create", "tiny", "--solver", str(job.solver), "--etcd", etcd)
    cluster.run(*create, "--set", store, "--unchecked")
    array = cluster.submit(f"--array=0-{TASKS - 1}", PEERS, "tiny")
    wait_for("all peers train", lambda: training(cluster, etcd) == names(array))

    urgent = cluster.submit("--partition=prod", "--wrap=sleep 600")
    task = wait_for(
        "a peer was preempted and waits",
        lambda: preempted(cluster, array, Counter(RUNNING=TASKS - 1, PENDING=1)),
    )
    name, log = f"s{array}-{task}", cluster.shared / f"peer-{array}_{task}.log"
    assert "left (drained" in log.read_text()
    assert cluster.states(urgent) == {"0": "RUNNING"}
    assert training(cluster, etcd) == [other for other in names(array) if other != name]
    cluster.run("scancel", urgent)
    wait_for("it trains again, under its name", lambda: training(cluster, etcd) == names(array))
    assert cluster.restarts(array, task) == 1

    cluster.run("scancel", array)
    wait_for("all have been cancelled", lambda: cluster.ended(array))
    logs = [path.read_text() for path in sorted(cluster.shared.glob(f"peer-{array}_*.log"))]
    assert all("left (drained" in text.rsplit("joining job", 1)[1] for text in logs)
    assert set(cluster.states(array).values()) == {"CANCELLED"}

    cluster.variables["GOSSIP_CAFFE_RUN_DIR"] = str(cluster.shared / "run2")
    again = cluster.submit(f"--array=0-{TASKS - 1}", PEERS, "tiny")
    wait_for("peers with other folders train", lambda: training(cluster, etcd))
    job.hurry()
    wait_for("the job is finished", lambda: cluster.ended(again))
    assert set(cluster.states(again).values()) == {"COMPLETED"}
    cluster.run("scancel", etcd_job)

    whole = tmp_path / "whole" / "events"
    for run in ("run", "run2"):
        shutil.copytree(cluster.shared / run / "events", whole, dirs_exist_ok=True)
    verdict = verdict_of(whole.parent)
    assert verdict.broken == ()
    last = [path.read_text() for path in cluster.shared.glob(f"peer-{again}_*.log")]
    assert not any("founded the job" in text for text in last), "the second array begins at a checkpoint"


@pytest.mark.long
@pytest.mark.needs("optuna")
def test_a_study_loses_no_trial_to_preemption(cluster: Slurm) -> None:
    job = write_job(cluster.shared / "job", noise=130.0, pace_ms=10)
    (job.folder / "study.toml").write_text(STUDY_FILE.format(store=cluster.shared / "store"))
    etcd_job, etcd = with_etcd(cluster)
    study = str(job.folder / "study.toml")
    cluster.run("gossip-caffe", "tune", "create", study, "--etcd", etcd, "--unchecked")
    array = cluster.submit(f"--array=0-{TASKS - 1}", STUDY, "tiny")
    trials = cluster.shared / "study"
    wait_for("trials train", lambda: list(trials.glob("**/events/*.jsonl")))

    urgent = cluster.submit("--partition=prod", "--nodes=2", "--wrap=sleep 600")
    wait_for("two workers make place", lambda: cluster.states(urgent) == {"0": "RUNNING"})
    waiting = wait_for("both wait", lambda: Counter(cluster.states(array).values())["PENDING"] == 2)
    assert waiting
    cluster.run("scancel", urgent)
    wait_for("both run again", lambda: sum(cluster.restarts(array, str(n)) for n in range(TASKS)) >= 2)
    job.hurry()
    wait_for("the study has ended", lambda: cluster.ended(array))
    assert set(cluster.states(array).values()) == {"COMPLETED"}

    seen = json.loads(cluster.run("gossip-caffe", "tune", "status", "--etcd", etcd, "--json"))
    assert seen["ended"]
    assert len(seen["trials"]) == 4
    assert {trial["state"] for trial in seen["trials"]} <= {"complete", "pruned"}
    cluster.run("scancel", etcd_job)
    for folder in {path.parents[1] for path in trials.glob("**/events/*.jsonl")}:
        assert verdict_of(folder).broken == ()


CALLS = {"peers": ("peer", "start"), "study": ("tune", "work"), "etcd": ("etcd", "start")}


@pytest.mark.parametrize("script", CALLS)
def test_the_scripts_call_the_program_with_options_that_it_has(script: str) -> None:
    lines = [line for line in (SCRIPTS / f"{script}.sbatch").read_text().splitlines() if line[:1] != "#"]
    call = next(line for line in lines if "gossip-caffe " in line).partition("gossip-caffe ")[2]
    options = [line for line in lines if re.search(r"options\+?=|^    --", line)]
    assert tuple(call.split()[:2]) == CALLS[script]
    assert not unknown([*CALLS[script], *re.findall(r"(?<!\S)\(?(--[a-z-]+)", " ".join([call, *options]))])


def test_the_tasks_of_one_srun_are_the_peers_of_one_training(cluster: Slurm) -> None:
    job = write_job(cluster.shared / "job", iterations=300, pace_ms=4)
    job.hurry()
    cluster.variables["GOSSIP_CAFFE_STATE"] = str(cluster.folder / "clusters")
    said = cluster.run(
        *("srun", "--nodes=1", "--ntasks=3", "--overcommit", "gossip-caffe", "train", str(job.solver))
    )
    assert said.count("trained: tiny_iter_300.caffemodel") == 1, said
    assert {name for name in ("r1", "r2") if f"{name}: training (synced" in said} == {"r1", "r2"}, said
    assert (cluster.shared / "tiny_iter_300.caffemodel").exists()
