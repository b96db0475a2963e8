"""Programs that are spawned: they die with their parent, whatever its other threads do, and get what they are given."""

from __future__ import annotations

import ast
import json
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

import gossip_caffe
from gossip_caffe.begin import python_command
from gossip_caffe.system.processes import spawn

pytestmark = pytest.mark.integration

DEADLINE_S = 60.0


def ended(pid: int) -> bool:
    """Whether it ends in time; it need not be a child of ours."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    poller = select.poll()
    poller.register(watched, select.POLLIN)
    try:
        return bool(poller.poll(DEADLINE_S * 1000))
    finally:
        os.close(watched)


OUR_MODULE = python_command("http.server", "--bind", "127.0.0.1", "0")
"""Any module serves that goes on."""


@pytest.mark.parametrize(
    "program", [["sleep", "600"], [sys.executable, "-c", "import time; time.sleep(600)"], OUR_MODULE]
)
def test_a_program_of_any_kind_dies_with_its_parent(program: list[str]) -> None:
    parent = f"""
        import time
        from gossip_caffe.system.processes import spawn
        print(spawn({program!r}).pid, flush=True)
        time.sleep(600)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(parent)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
    assert ended(pid)


@pytest.mark.parametrize("program", [["sleep", "600"], OUR_MODULE])
def test_a_program_whose_parent_dies_while_it_is_being_started_does_not_live_on(program: list[str]) -> None:
    """Whenever the kill comes: before the fork, before the request, between that and exec, after it."""
    parent = f"""
        import sys
        from gossip_caffe.system.processes import spawn
        print("ready", flush=True)
        while True:
            print(spawn({program!r}).pid, flush=True)
    """
    for pause_s in (0.0, 0.01, 0.02, 0.05):
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(parent)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            threading.Event().wait(pause_s)
            process.kill()
            pids = [int(line) for line in process.stdout.read().split("\n") if line]
        assert all(map(ended, pids))
        born = [
            folder.name
            for folder in Path("/proc").glob("[0-9]*")
            if (folder / "stat").exists() and f" {process.pid} " in _words(folder / "cmdline")
        ]
        assert all(ended(int(pid)) for pid in born)


def _words(cmdline: Path) -> str:
    try:
        return f" {cmdline.read_bytes().decode(errors='replace')} ".replace("\0", " ")
    except OSError:
        return ""


def test_a_program_gets_its_arguments_environment_descriptors_and_signals() -> None:
    reader, writer = os.pipe()
    told = """
        import json, os, sys
        os.write(int(sys.argv[2]), json.dumps({
            "words": sys.argv[1:2], "mine": os.environ.get("MINE"), "no": os.environ.get("NOT_MINE"),
            "group": os.getpgid(0) == os.getpid(), "fds": sorted(map(int, os.listdir("/proc/self/fd"))),
        }).encode())
    """
    os.environ["NOT_MINE"] = "x"
    try:
        process = spawn(
            [sys.executable, "-c", textwrap.dedent(told), "-I a b", str(writer)],
            pass_fds=[writer],
            environment={"MINE": "yes", "NOT_MINE": None},
        )
    finally:
        del os.environ["NOT_MINE"]
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = json.load(answer)
    assert process.wait(DEADLINE_S) == 0
    assert (said["words"], said["mine"], said["no"], said["group"]) == (["-I a b"], "yes", None, True)
    assert len(set(said["fds"]) - {0, 1, 2, writer}) == 1  # that of the listing itself


def test_signals_that_python_ignores_are_not_ignored_by_the_program() -> None:
    process = spawn(["sh", "-c", "grep SigIgn /proc/$$/status"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    ignored = int(process.stdout.read().split()[1], 16)
    process.wait(DEADLINE_S)
    process.stdout.close()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        assert not ignored >> (number - 1) & 1


def test_a_program_that_is_not_there_is_said_at_once() -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        spawn(["no-such-program"])


def test_processes_can_be_spawned_while_many_threads_hold_locks() -> None:
    """With ``preexec_fn`` a child can lock up before exec, and its parent with it."""
    over = threading.Event()

    def busy() -> None:
        while not over.is_set():
            threading.Lock().acquire()
            Path("/proc/self/stat").read_text()

    threads = [threading.Thread(target=busy, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            assert spawn(["true"]).wait(DEADLINE_S) == 0
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize(
    "path", sorted(Path(gossip_caffe.__file__).parent.rglob("*.py")), ids=lambda path: path.name
)
def test_no_code_of_ours_runs_between_fork_and_exec(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            names = {keyword.arg for keyword in node.keywords}
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            assert "preexec_fn" not in names
            assert called != "fork" or path.name == "trial_child.py"  # a process without threads
