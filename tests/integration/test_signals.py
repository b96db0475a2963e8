"""Signals × commands × exit codes, on real processes: one table for each command, whose rows run at the same time."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.errors import ExitCode
from gossip_caffe.system.processes import is_alive
from tests.cluster_run import ClusterRun, cluster_run, wait_for
from tests.tiny_job import TinyJob, write_job

pytestmark = pytest.mark.needs("caffe", "etcd")

INT, TERM, HUP, USR1 = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1
LEFT, INTERRUPTED = ExitCode.LEFT, ExitCode.INTERRUPTED
QUICK = ("--engine", "numpy")
PLAIN = 'exec "$@"'
DEAF = 'exec "$@" <&- >&- 2>&-'
HEADED = 'exec "$@" > >(head -1)'
NOHUP = 'exec nohup "$@"'


@dataclass(frozen=True, slots=True)
class Row:
    """Signals to one command, sent when it trains, and what must happen.

    ``goes_on``: it trains on after these signals, and then gets SIGTERM. ``says``: a pattern in what it prints.
    ``more``: arguments, ``within``: the line of bash that runs the command. ``frozen``: its solver is stopped before.
    ``leaves``: the least number of .caffemodel files that are left.
    """

    name: str
    signals: tuple[signal.Signals, ...]
    code: int
    says: str = ""
    goes_on: bool = False
    more: tuple[str, ...] = ()
    within: str = PLAIN
    frozen: bool = False
    leaves: int = 1


@dataclass
class Started:
    """The process of a row in a folder of its own. ``events``: the event logs of its peers."""

    row: Row
    folder: Path
    process: subprocess.Popen[bytes]
    events: Callable[[], list[Path]]

    @property
    def said(self) -> str:
        return (self.folder / "log").read_text()

    def count(self, kind: str) -> int:
        """The events of a kind. They are not parsed: a peer at full speed writes more than a test can read."""
        return sum(path.read_bytes().count(f'"event":"{kind}"'.encode()) for path in self.events())

    def has_more(self, kind: str, than: int) -> bool:
        """Whether it has logged more events of a kind than before; also true when it has ended."""
        return self.ended or self.count(kind) > than

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def has_ended(self) -> bool:
        return self.ended

    def has_snapshot(self) -> bool:
        """Whether it has said that a snapshot is written; also true when it has ended."""
        return self.ended or "\nsnapshot " in self.said


@pytest.fixture
def run(tmp_path: Path) -> Iterator[ClusterRun]:
    with cluster_run(tmp_path / "state") as made:
        yield made


@pytest.fixture
def endless(tmp_path: Path) -> TinyJob:
    return write_job(tmp_path / "job", iterations=10_000_000)


def begun(run: ClusterRun, row: Row, folder: Path, words: Sequence[str], events: str) -> Started:
    """Start a row's command; ``events``: a pattern of its event logs, below its folder."""
    folder.mkdir(parents=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", row.within, "-", *run.command(*words, *row.more)],
            env=run.environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return Started(row, folder, process, lambda: sorted(folder.glob(events)))


def carry_out(started: Sequence[Started]) -> list[str]:
    """Send each row's signals, one after the other, and wait for all ends. Returns what is not as the rows say."""
    for one in started:
        wait_for(f"{one.row.name}: it trains", partial(one.has_more, "progress", 0))
        if one.row.frozen:
            freeze_solver(one.process.pid)
    for one in started:
        for number in one.row.signals:
            states = one.count("state")
            one.send(number)
            if len(one.row.signals) > 1:  # two of one kind that wait are one
                wait_for(f"{one.row.name}: it is heard", partial(one.has_more, "state", states))
    for one in started:
        if one.row.goes_on:
            wait_for(f"{one.row.name}: it goes on", partial(one.has_more, "progress", one.count("progress")))
            if one.row.leaves > 1:
                wait_for(f"{one.row.name}: a snapshot", one.has_snapshot)
            one.send(TERM)
    wrong = []
    for one in started:
        wait_for(f"{one.row.name}: it has ended", one.has_ended, 90.0)
        if one.process.returncode != one.row.code:
            wrong.append(f"{one.row.name}: exit {one.process.returncode}, not {one.row.code:d}: {one.said}")
        if not re.search(one.row.says, one.said):
            wrong.append(f"{one.row.name}: it does not say {one.row.says!r}: {one.said}")
        if "Traceback" in one.said:
            wrong.append(f"{one.row.name}: {one.said}")
    return wrong


def freeze_solver(agent: int) -> None:
    """Stop a peer's solver, so that the peer cannot finish its batches."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == agent and b"gossip_caffe.solver.child" in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGSTOP)


# ── peer start ────────────────────────────────────────────────────────────────────────────────────────────────────────

UNFINISHED = "is not finished: exit code 75"
PEERS = (
    Row("SIGINT", (INT,), LEFT, UNFINISHED),
    Row("SIGTERM", (TERM,), LEFT, UNFINISHED),
    Row("SIGHUP", (HUP,), LEFT, UNFINISHED),
    Row("SIGUSR1", (USR1,), LEFT, UNFINISHED),
    Row("SIGUSR1, then SIGTERM", (USR1, TERM), LEFT, UNFINISHED),
    Row("SIGTERM twice", (TERM, TERM), LEFT, UNFINISHED),
    Row("Ctrl-C twice", (INT, INT), -INT, "draining", frozen=True),
    Row(
        "the grace is over",
        (TERM,),
        LEFT,
        "out of time|of --grace are over",
        more=("--grace", "2"),
        frozen=True,
    ),
    Row("SIGHUP under nohup", (HUP,), LEFT, "SIGTERM", goes_on=True, within=NOHUP),
    Row("SIGTERM without streams", (TERM,), LEFT, within=DEAF),
    Row("SIGTERM after | head", (TERM,), LEFT, within=HEADED),
)


def peer_words(job: str, etcd: str, name: str) -> tuple[str, ...]:
    return ("peer", "start", "--job", job, "--etcd", etcd, "--name", name, "--run-dir", "run", *QUICK)


def created(run: ClusterRun, etcd: EtcdServer, job: TinyJob, name: str) -> str:
    """Create a job whose name no other test has."""
    made = f"{name}-{run.marker[:8]}"
    done = run.run("job", "create", made, "--solver", str(job.solver), "--etcd", etcd.endpoint, "--unchecked")
    assert done.returncode == 0, done.stderr
    return made


def test_a_peer_leaves_in_good_order_at_every_signal_and_says_by_its_code_that_the_job_is_not_finished(
    run: ClusterRun, etcd: EtcdServer, endless: TinyJob, tmp_path: Path
) -> None:
    job = created(run, etcd, endless, "signals")
    started = [
        begun(
            run,
            row,
            tmp_path / f"peer-{number}",
            peer_words(job, etcd.endpoint, f"p{number}"),
            "run/events/*.jsonl",
        )
        for number, row in enumerate(PEERS)
    ]
    wrong = carry_out(started)
    last_words = [one.row.name for one in started if one.count("left") != (one.row.code == LEFT)]
    assert (wrong, last_words) == ([], [])
    run.assert_nothing_is_left()
    assert (
        run.run("peer", "list", "--etcd", etcd.endpoint, "--job", job).stdout.count("\n") <= 2
    )  # at most the killed


@pytest.fixture
def metadata() -> Iterator[tuple[str, threading.Event]]:
    """The URL of a metadata endpoint on loopback, and what makes it give a notice."""
    taken_away = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"TRUE" if taken_away.is_set() else b"FALSE"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/computeMetadata/v1/instance/preempted", taken_away
    server.shutdown()
    thread.join()


def test_a_peer_waits_for_etcd_and_for_its_job_and_leaves_at_a_notice_of_preemption(
    run: ClusterRun, etcd: EtcdServer, endless: TinyJob, tmp_path: Path, metadata: tuple[str, threading.Event]
) -> None:
    url, taken_away = metadata
    job = f"late-{run.marker[:8]}"

    def start(name: str, code: int, endpoint: str, *more: str) -> Started:
        words = peer_words(job, endpoint, name)
        return begun(run, Row(name, (), code, more=more), tmp_path / name, words, "run/events/*.jsonl")

    no_etcd = start("no-etcd", LEFT, "127.0.0.1:1", "--wait-for-etcd", "60")
    no_job = start("no-job", ExitCode.NOT_FOUND, etcd.endpoint, "--wait-for-job", "1")
    late = start("late", LEFT, etcd.endpoint, "--wait-for-job", "100", "--preemption-url", url)
    wait_for("it waits for etcd", lambda: "waits up to 60 s for etcd at 127.0.0.1:1 (" in no_etcd.said)
    no_etcd.send(TERM)
    wait_for("the short wait is over", lambda: no_job.ended)
    wait_for("it waits for its job", lambda: f"waits up to 100 s for job {job} (" in late.said)
    assert [one.said.count("waits up to") for one in (no_etcd, no_job, late)] == [1, 1, 1]
    created(run, etcd, endless, "late")
    wait_for("it trains", lambda: late.count("progress"))
    taken_away.set()
    for one in (no_etcd, no_job, late):
        assert one.process.wait(60) == one.row.code, one.said
    assert "asked to leave: notice of preemption: TRUE" in late.said
    assert "left before it had joined (SIGTERM)" in no_etcd.said
    assert f"there is no job '{job}'" in no_job.said.splitlines()[-1]


def test_a_peer_ends_with_0_when_its_job_is_finished(
    run: ClusterRun, etcd: EtcdServer, tmp_path: Path
) -> None:
    job = created(run, etcd, write_job(tmp_path / "job", iterations=400), "short")
    for says, code in (("left (drained)", ExitCode.OK), ("is finished already; nothing to do", ExitCode.OK)):
        done = run.run(*peer_words(job, etcd.endpoint, "p0"), cwd=tmp_path)
        assert (done.returncode, says in done.stdout, "exit code" in done.stdout) == (code, True, False)


# ── train and cluster up ──────────────────────────────────────────────────────────────────────────────────────────────

SNAPSHOT = (
    ": a snapshot is written, and the training goes on(.|\n)*snapshot tiny_iter_.*(.|\n)*going down: SIGTERM"
)
TRAINS = (
    Row("Ctrl-C", (INT,), INTERRUPTED, "going down: SIGINT"),
    Row("SIGTERM", (TERM,), LEFT, "going down: SIGTERM"),
    Row("SIGUSR1", (USR1,), LEFT, "going down: SIGUSR1"),
    Row("SIGHUP", (HUP,), LEFT, f"SIGHUP{SNAPSHOT}", goes_on=True, leaves=2),
    Row("SIGHUP under nohup", (HUP,), LEFT, "going down: SIGTERM", goes_on=True, within=NOHUP),
    Row("stop at SIGHUP", (HUP,), LEFT, "going down: SIGHUP", more=("--sighup_effect", "stop")),
    Row(
        "a snapshot at Ctrl-C, of two peers",
        (INT,),
        LEFT,
        f"SIGINT{SNAPSHOT}",
        goes_on=True,
        more=("--sigint_effect", "snapshot", "--peers", "2"),
        leaves=2,
    ),
    Row(
        "no effect of Ctrl-C",
        (INT,),
        LEFT,
        "going down: SIGTERM",
        goes_on=True,
        more=("--sigint-effect=none",),
    ),
)


def test_train_writes_its_weights_at_every_signal(run: ClusterRun, endless: TinyJob, tmp_path: Path) -> None:
    started = [
        begun(
            run,
            replace(row, within=f"export GOSSIP_CAFFE_STATE=$PWD/state; {row.within}"),
            tmp_path / f"train-{number}",
            ("train", str(endless.solver), *QUICK),
            "state/clusters/*/run/events/*.jsonl",
        )
        for number, row in enumerate(TRAINS)
    ]
    wrong = carry_out(started)
    few = [
        row.name
        for row, one in zip(TRAINS, started, strict=True)
        if len(list(one.folder.glob("tiny_iter_*.caffemodel"))) < row.leaves
        or not list(one.folder.glob("tiny_iter_*.solverstate"))
    ]
    assert (wrong, few) == ([], [])
    run.assert_nothing_is_left()


CLUSTERS = (
    Row("Ctrl-C", (INT,), INTERRUPTED, "going down: SIGINT"),
    Row("SIGTERM", (TERM,), LEFT, "going down: SIGTERM"),
    Row("SIGHUP", (HUP,), LEFT, "going down: SIGHUP"),
    Row("SIGUSR1", (USR1,), LEFT, "going down: SIGUSR1"),
    Row("SIGHUP under nohup", (HUP,), LEFT, "going down: SIGTERM", goes_on=True, within=NOHUP),
    Row("cluster down", (), LEFT, "going down: asked by 'cluster down'"),
)


def test_a_cluster_goes_down_in_good_order_at_every_signal(
    run: ClusterRun, endless: TinyJob, tmp_path: Path
) -> None:
    words = ("cluster", "up", "--solver", str(endless.solver), "--peers", "1", *QUICK)
    started = [
        begun(
            run,
            row,
            tmp_path / f"up-{number}",
            (*words, "--name", f"c{number}"),
            f"../state/clusters/c{number}/run/events/*.jsonl",
        )
        for number, row in enumerate(CLUSTERS)
    ]
    wait_for("the last one trains", lambda: started[-1].count("progress"))
    done = run.run("cluster", "down", "--name", f"c{len(CLUSTERS) - 1}")
    assert done.returncode == 0, done.stderr
    assert carry_out(started) == []
    run.assert_nothing_is_left()


def test_the_code_of_a_cluster_whose_peers_have_all_left_says_so(run: ClusterRun, endless: TinyJob) -> None:
    up = run.start("cluster", "up", "--solver", str(endless.solver), "--peers", "1", *QUICK)
    peer = wait_for("it trains", lambda: run.training().get("p0"))
    os.kill(peer["agent_pid"], signal.SIGUSR1)
    assert up.wait(60) == LEFT
    said = (run.folder / "up.log").read_text()
    assert "p0 left (exit 75)\n" in said
    assert "no peer of job 'solver' is left: all were asked to leave; see" in said
    assert not is_alive(peer["agent_pid"])
