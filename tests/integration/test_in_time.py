"""What a user of Caffe finds where Caffe leaves it: tests and snapshots at their iterations, and states to go on from.

The oracle is plain pycaffe, which solves the same file in a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gossip_caffe.errors import ExitCode
from gossip_caffe.observe.log.events import Event
from gossip_caffe.wire import caffe_wire_pb2 as wire
from tests.cluster_run import ClusterRun, cluster_run, wait_for
from tests.tiny_job import TinyJob, write_job, write_lmdb

pytestmark = [pytest.mark.integration, pytest.mark.needs("caffe", "etcd")]

_SOLVE = """
import sys
import caffe

caffe.set_mode_cpu()
solver = caffe.get_solver(sys.argv[1])
if len(sys.argv) > 2:
    solver.restore(sys.argv[2])
solver.solve()
"""
DROPOUT = """layer {
  name: "drop" type: "Dropout" bottom: "ip1" top: "ip1" dropout_param { dropout_ratio: 0.3 }
}
"""
OF_ONE_STAGE = """layer {
  name: "top3" type: "Accuracy" bottom: "ip2" bottom: "label" top: "top3" accuracy_param { top_k: 3 }
  include { phase: TEST stage: "more" }
}
"""
PROBABILITIES = """layer { name: "prob" type: "Softmax" bottom: "ip2" top: "prob" include { phase: TEST } }
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[ClusterRun]:
    with cluster_run(tmp_path / "state") as made:
        yield made


def job_with(
    folder: Path, *, iterations: int, tests: str, net: str = "", pace_ms: int | None = None
) -> TinyJob:
    """A job whose test data is around in the midst of a pass."""
    job = write_job(folder, iterations=iterations, records=600, tested=50, pace_ms=pace_ms)
    text = job.solver.read_text()
    old = "test_iter: 4\ntest_interval: 1000000\ntest_initialization: false\n"
    assert old in text
    job.solver.write_text(text.replace(old, f"{tests}\n"))
    marker = 'layer {\n  name: "ip2"'
    before, after = job.net.read_text().split(marker)
    if "Dropout" in net:
        before, net = before + DROPOUT, net.replace(DROPOUT, "")
    text = f"{before}{marker}{after}{net}"
    if "test_state" in tests:
        # This Caffe aborts when it opens one LMDB twice.
        write_lmdb(folder / "test2", 50, seed=3)
        start = text.index("layer {", text.index("phase: TRAIN"))
        end = text.index("layer {", text.index("phase: TEST"))
        layer = text[start:end]
        second = layer.replace("phase: TEST", 'phase: TEST stage: "more"').replace(
            str(job.test), f"{job.test}2"
        )
        first = layer.replace("phase: TEST", 'phase: TEST not_stage: "more"')
        text = text[:start] + first + second + text[end:]
    job.net.write_text(text)
    return job


def plain_caffe(job: TinyJob, state: str = "") -> tuple[Path, list[str]]:
    """The folder with what plain Caffe leaves, and its tests as ``train`` says them."""
    folder, tests, _ = solved(job, state)
    return folder, tests


def solved(job: TinyJob, state: str = "") -> tuple[Path, list[str], str]:
    """The same, and all that Caffe logged."""
    folder = job.folder / "plain"
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", _SOLVE, str(job.solver), *([state] if state else [])],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "GLOG_minloglevel": "0"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return folder, caffes_tests(done.stderr), done.stderr


def caffes_tests(log: str) -> list[str]:
    tests: dict[int, list[str]] = {}
    iteration = net = 0
    values: dict[str, int] = {}
    for line in log.splitlines():
        text = line.partition("] ")[2].strip()
        number = "" if not net else f"net #{net} "
        if match := re.match(r"Iteration (\d+), Testing net \(#(\d+)\)", text):
            iteration, net, values = int(match[1]), int(match[2]), {}
            tests.setdefault(iteration, [])
        elif text.startswith("Test loss"):
            tests[iteration].append(number + text)
        elif match := re.match(r"Test net output #\d+: (.*)", text):
            name, _, value = match[1].partition(" = ")
            values[name] = values.get(name, 0) + 1
            if values[name] == 1:
                tests[iteration].append(number + match[1])
            elif values[name] <= 3:
                tests[iteration][-1] += f", {value}"
            else:
                tests[iteration][-1] = re.sub(
                    r"(, … .*)?$", f", … ({values[name]} values)", tests[iteration][-1], count=1
                )
    return [f"iteration {iteration:,}: {', '.join(words)}" for iteration, words in tests.items()]


def said(log: str) -> list[str]:
    return [line for line in log.splitlines() if line.startswith("iteration ")]


def blobs(path: Path) -> list[list[float]]:
    net = wire.NetParameter.FromString(path.read_bytes())
    return [list(blob.data) for layer in net.layer for blob in layer.blobs]


_DISPLAYED = re.compile(
    r"Iteration \d+, (loss|lr) = |    Train net output #|    \[(Forward|Backward|Update)\]"
)


def _rounded(line: str) -> str:
    return re.sub(r"\d+\.\d+(e[-+]\d+)?", lambda number: f"{float(number[0]):.4g}", line)


def displayed(log: str) -> list[str]:
    """What Caffe says of training; of the last iteration it says the loss of a pass that trains nothing."""
    text = (line.partition("] ")[2] if re.match(r"[IWE]\d+ ", line) else line for line in log.splitlines())
    return [line for line in text if _DISPLAYED.match(line)]


@pytest.mark.parametrize(
    "settings", ["", "average_loss: 7", "iter_size: 3\naverage_loss: 4", "debug_info: true"]
)
def test_display_says_what_caffe_says_at_the_same_iterations(
    run: ClusterRun, tmp_path: Path, settings: str
) -> None:
    tests = f"test_iter: 4\ntest_interval: 1000\ndisplay: 20\n{settings}"
    job = job_with(tmp_path / "job", iterations=130, tests=tests)
    _, _, log = solved(job)
    expected = displayed(log)
    assert len(expected) >= 7 * 3
    done = run.run("train", "solver.prototxt", cwd=job.folder)
    assert done.returncode == 0, done.stderr
    found = displayed(done.stdout)
    if "debug_info" in settings:
        assert any("All net params" in line for line in expected)
        assert any("top blob accuracy" in line for line in expected), "the net that is tested, too"
        # What debug_info prints comes another way, and may come later. A BLAS sums up as the memory is aligned.
        assert sorted(map(_rounded, found)) == sorted(map(_rounded, expected))
    else:
        assert found == expected


def test_of_several_peers_one_displays_for_all(run: ClusterRun, tmp_path: Path) -> None:
    job = job_with(
        tmp_path / "job", iterations=600, tests="test_iter: 1\ntest_interval: 1000\ndisplay: 100", pace_ms=15
    )
    done = run.run("train", "solver.prototxt", "--peers", "2", cwd=job.folder)
    assert done.returncode == 0, done.stderr
    at = [
        int(line.split()[1].rstrip(","))
        for line in displayed(done.stdout)
        if "loss =" in line and "Train" not in line
    ]
    # What the others have trained is seen half a second late: near the end nobody may see that a time has come.
    assert [iteration // 100 for iteration in at] == list(range(len(at)))
    assert len(at) >= 4


CASES = {
    "at the start, on the way and at the end": ("test_iter: 4\ntest_interval: 100", ""),
    "not at the start, nor at the end": (
        "test_iter: 3\ntest_interval: 70\ntest_initialization: false\ntest_compute_loss: true",
        "",
    ),
    "two nets by stage, one output of ten values": (
        'test_iter: 3\ntest_iter: 2\ntest_interval: 100\ntest_state {}\ntest_state { stage: "more" }\n'
        "test_compute_loss: true",
        OF_ONE_STAGE + PROBABILITIES,
    ),
    "the numbers of dropout go on behind those of the test nets": (
        "test_iter: 4\ntest_interval: 150",
        DROPOUT,
    ),
    "an iteration of several passes": ("test_iter: 4\ntest_interval: 100\niter_size: 2", ""),
}


@pytest.mark.parametrize("case", CASES)
def test_one_peer_tests_and_writes_snapshots_where_caffe_does_and_finds_what_caffe_finds(
    run: ClusterRun, tmp_path: Path, case: str
) -> None:
    tests, net = CASES[case]
    job = job_with(tmp_path / "job", iterations=300, tests=f"{tests}\nsnapshot: 80", net=net)
    plain, expected = plain_caffe(job)
    done = run.run("train", "solver.prototxt", cwd=job.folder)
    assert done.returncode == 0, done.stderr
    assert said(done.stdout) == expected
    for iteration in (80, 160, 240, 300):
        model, state = (f"tiny_iter_{iteration}.{kind}" for kind in ("caffemodel", "solverstate"))
        assert blobs(job.folder / model) == blobs(plain / model), model
        assert (job.folder / model).read_bytes() == (plain / model).read_bytes()
        assert (job.folder / state).read_bytes() == (plain / state).read_bytes()
    run.assert_nothing_is_left()


def interrupt_at(run: ClusterRun, job: TinyJob, iteration: int, *arguments: str) -> Path:
    """Ctrl-C once so many iterations are done, and snapshots of that time are there; returns the state that is left."""
    process = run.start("train", "solver.prototxt", *arguments, cwd=job.folder)
    log = run.folder / "up.log"
    wait_for(
        "it has come so far",
        lambda: any(
            int(said.split()[1].rstrip(":").replace(",", "")) >= iteration for said in map(str, said_now(log))
        ),
    )
    process.send_signal(signal.SIGINT)
    wait_for("it has ended", lambda: process.poll() is not None)
    assert process.returncode == ExitCode.INTERRUPTED, log.read_text()
    last = log.read_text().splitlines()[-1]
    match = re.search(r"next: gossip-caffe train solver.prototxt --snapshot (\S+)", last)
    assert match is not None, log.read_text()
    assert (job.folder / match[1]).with_suffix(".caffemodel").exists()
    return job.folder / match[1]


def said_now(log: Path) -> list[str]:
    return said(log.read_text())


def test_training_that_was_broken_off_ends_with_the_weights_of_training_that_was_not(
    run: ClusterRun, tmp_path: Path
) -> None:
    # 16 × 2,000 records of 600: it is broken off and taken up again in the midst of an epoch.
    job = job_with(tmp_path / "job", iterations=2000, tests="test_iter: 1\ntest_interval: 100", pace_ms=2)
    state = interrupt_at(run, job, 700)
    iteration = wire.SolverState.FromString(state.read_bytes()).iter
    assert state.name == f"tiny_iter_{iteration}.solverstate"
    assert 700 <= iteration < 2000
    done = run.run("train", "solver.prototxt", "--snapshot", state.name, "--json", cwd=job.folder)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["iterations"], told["state"]) == (2000, "tiny_iter_2000.solverstate")
    resumed = {
        kind: (job.folder / f"tiny_iter_2000.{kind}").read_bytes() for kind in ("caffemodel", "solverstate")
    }
    job.hurry()
    undisturbed = run.run("train", "solver.prototxt", cwd=job.folder)
    assert undisturbed.returncode == 0, undisturbed.stderr
    for kind, content in resumed.items():
        assert (job.folder / f"tiny_iter_2000.{kind}").read_bytes() == content
    run.assert_nothing_is_left()


def test_a_lower_rate_from_a_snapshot_on_as_in_caffes_scripts_of_three_stages(
    run: ClusterRun, tmp_path: Path
) -> None:
    """Each stage has a solver of its own, a tenth of the rate, and goes on from a snapshot of the one before."""
    job = job_with(tmp_path / "job", iterations=150, tests="test_iter: 4\ntest_interval: 75")
    text = job.solver.read_text().replace('lr_policy: "inv"', 'lr_policy: "fixed"')
    stages = {"solver": (150, "0.05"), "solver_lr1": (225, "0.005"), "solver_lr2": (300, "0.0005")}
    for name, (iterations, rate) in stages.items():
        changed = text.replace("base_lr: 0.05", f"base_lr: {rate}").replace(
            "max_iter: 150", f"max_iter: {iterations}"
        )
        (job.folder / f"{name}.prototxt").write_text(changed)
    # 150 iterations are four epochs, and 75 two: plain Caffe, which begins with the data anew, reads the same.
    done = run.run("train", "solver.prototxt", cwd=job.folder)
    assert done.returncode == 0, done.stderr
    for name, before in (("solver_lr1", 150), ("solver_lr2", 225)):
        done = run.run(
            "train", f"{name}.prototxt", "--snapshot", f"tiny_iter_{before}.solverstate", cwd=job.folder
        )
        assert done.returncode == 0, done.stderr
        assert [line.partition(":")[0] for line in said(done.stdout)] == [
            f"iteration {iteration}" for iteration in (before, before + 75)
        ]
    plain, _ = plain_caffe(job)
    for name, before in (("solver_lr1", 150), ("solver_lr2", 225)):
        stage = TinyJob(job.folder, job.folder / f"{name}.prototxt", job.net, job.train, job.test)
        plain_caffe(stage, str(plain / f"tiny_iter_{before}.solverstate"))
    for iteration in (150, 225, 300):
        assert blobs(job.folder / f"tiny_iter_{iteration}.caffemodel") == blobs(
            plain / f"tiny_iter_{iteration}.caffemodel"
        )


def test_several_peers_make_as_many_tests_as_are_due_and_write_every_snapshot(
    run: ClusterRun, tmp_path: Path
) -> None:
    tests = "test_iter: 30\ntest_interval: 100\nsnapshot: 150"
    job = job_with(tmp_path / "job", iterations=900, tests=tests, pace_ms=4)
    done = run.run("train", "solver.prototxt", "--peers", "3", "--json", cwd=job.folder)
    assert done.returncode == 0, done.stderr
    at = [int(line.split()[1].rstrip(":").replace(",", "")) for line in said(done.stderr)]
    assert len(at) >= 10, done.stderr
    assert (at[0], at[-1]) == (0, 900)
    assert at == sorted(at)
    for mark in range(0, 1000, 100):
        assert any(mark <= iteration for iteration in at[mark // 100 :])
    names = [
        f"tiny_iter_{iteration}.{kind}"
        for iteration in range(150, 901, 150)
        for kind in ("caffemodel", "solverstate")
    ]
    assert [name for name in names if not (job.folder / name).is_file()] == []
    net = wire.NetParameter.FromString((job.folder / "tiny_iter_450.caffemodel").read_bytes())
    assert net.name == "tiny"
    assert [layer.type for layer in net.layer][:4] == ["Data", "Split", "InnerProduct", "ReLU"]


@pytest.mark.parametrize("hdf5", [False, True])
def test_a_state_that_train_left_is_one_for_plain_caffe(run: ClusterRun, tmp_path: Path, hdf5: bool) -> None:
    if hdf5:
        pytest.importorskip("h5py")
    form = "snapshot_format: HDF5" if hdf5 else ""
    tests = f"test_iter: 1\ntest_interval: 1000\nsnapshot: 75\n{form}"
    job = job_with(tmp_path / "job", iterations=150, tests=tests)
    done = run.run("train", "solver.prototxt", cwd=job.folder)
    assert done.returncode == 0, done.stderr
    end = ".h5" if hdf5 else ""
    expected = {f"tiny_iter_{at}.{kind}{end}" for at in (75, 150) for kind in ("caffemodel", "solverstate")}
    assert {path.name for path in job.folder.glob("tiny_iter*")} == expected
    assert done.stdout.splitlines()[-1].startswith(f"trained: tiny_iter_150.caffemodel{end}; next: ")
    whole = (job.folder / f"tiny_iter_150.caffemodel{end}").read_bytes()
    (job.folder / f"tiny_iter_150.caffemodel{end}").unlink()
    # 75 iterations of 16 records are two epochs of 600.
    subprocess.run(
        [sys.executable, "-c", _SOLVE, str(job.solver), f"tiny_iter_75.solverstate{end}"],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        cwd=job.folder,
        capture_output=True,
        timeout=120,
        check=True,
    )
    ours, theirs = job.folder / "ours", job.folder / f"tiny_iter_150.caffemodel{end}"
    ours.write_bytes(whole)
    if hdf5:
        assert values_of(ours) == values_of(theirs)
    else:
        assert blobs(ours) == blobs(theirs)


def values_of(path: Path) -> dict[str, list[float]]:
    import h5py  # noqa: PLC0415 - optional

    found: dict[str, list[float]] = {}
    with h5py.File(path) as file:
        file["data"].visititems(
            lambda name, item: (
                found.update({name: item[()].ravel().tolist()}) if hasattr(item, "shape") else None
            )
        )
    return found


def test_a_test_that_fails_stops_nobody_and_the_next_is_made(run: ClusterRun, tmp_path: Path) -> None:
    job = job_with(
        tmp_path / "job", iterations=1_000_000, tests="test_iter: 3000\ntest_interval: 100", pace_ms=2
    )
    run.start("train", "solver.prototxt", cwd=job.folder)
    killed = set()

    def testers() -> list[int]:
        return [
            pid
            for pid, command in run.processes().items()
            if "evaluation_child" in command and pid not in killed
        ]

    for _ in range(2):
        (pid,) = wait_for("a test runs", testers)
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    wait_for("a later test is made", lambda: said_now(run.folder / "up.log"))
    events = list((run.folder / "clusters").glob("*/run/events/*.jsonl"))
    assert any(f'"{Event.TEST_FAILED}"' in path.read_text() for path in events)
