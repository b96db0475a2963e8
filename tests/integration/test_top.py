"""``top`` as a person sees it: in a real terminal (tmux), with textual and with rich, at a real cluster."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from gossip_caffe.cluster.state.folder import ClusterState
from gossip_caffe.cluster.supervision.control import ask
from tests.cluster_run import ClusterRun, cluster_run, wait_for
from tests.tiny_job import write_job

pytestmark = [pytest.mark.needs("tmux", "etcd", "caffe"), pytest.mark.xdist_group("top")]
PEERS = 4


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterRun]:
    """A cluster of four peers that train for as long as the tests want."""
    folder = tmp_path_factory.mktemp("top")
    job = write_job(folder / "job", records=9600, batch=16, iterations=1_000_000, pace_ms=20)
    with cluster_run(folder / "state") as run:
        words = ("cluster", "up", "--peers", str(PEERS), "--solver", str(job.solver))
        done = run.run(*words, "--detach")
        assert done.returncode == 0, done.stderr
        yield run
        run.run("cluster", "down")


@dataclass
class Tmux:
    """One terminal of 80 × 24 characters, with a shell that runs a command and then says how it ended."""

    folder: Path
    environment: dict[str, str]

    def call(self, *words: str) -> str:
        command = ["tmux", "-S", str(self.folder / "tmux"), "-f", os.devnull, *words]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    def open(self, command: Sequence[str]) -> None:
        script = (
            f"trap : INT; stty -g > {shlex.quote(str(self.folder / 'before'))}; {shlex.join(command)}; echo ended $?; "
            f"trap : INT; stty -g > {shlex.quote(str(self.folder / 'after'))}; sleep 600"
        )
        self.call("new-session", "-d", "-x", "80", "-y", "24", "sh", "-c", script)

    def screen(self, *, with_colours: bool = False) -> str:
        return self.call("capture-pane", "-p", *(["-e"] if with_colours else []))

    def sees(self, pattern: str, deadline_s: float = 60.0) -> str:
        """Wait until the screen matches; returns it."""
        seen = ""

        def look() -> bool:
            nonlocal seen
            seen = self.screen()
            return re.search(pattern, seen, re.MULTILINE) is not None

        try:
            wait_for(f"the screen shows {pattern!r}", look, deadline_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{seen}") from None
        return seen

    def press(self, *keys: str) -> None:
        self.call("send-keys", *keys)

    def assert_restored(self) -> None:
        """The terminal is as before: its settings, its screen and its cursor."""
        assert (self.folder / "before").read_text() == wait_for(
            "the shell goes on",
            lambda: (self.folder / "after").exists() and (self.folder / "after").read_text(),
        )
        assert self.call(
            "display-message", "-p", "#{alternate_on} #{cursor_flag} #{mouse_any_flag}"
        ).split() == [*("0", "1", "0")]


@pytest.fixture
def terminal(run: ClusterRun, tmp_path: Path) -> Iterator[Tmux]:
    environment = {**run.environment, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
    for name in ("NO_COLOR", "COLUMNS", "LINES", "TMUX", "GOSSIP_CAFFE_ETCD"):
        environment.pop(name, None)
    tmux = Tmux(tmp_path, environment)
    try:
        yield tmux
    finally:
        subprocess.run(
            ["tmux", "-S", str(tmp_path / "tmux"), "kill-server"], capture_output=True, check=False
        )


def select(terminal: Tmux, run: ClusterRun, peer: str) -> None:
    """Move to a peer: the rows are in the order of the names."""
    alive = sorted(run.peers())
    terminal.press("Home")
    for _ in range(alive.index(peer)):
        terminal.press("Down")


def scaled(run: ClusterRun) -> list[str]:
    """Four peers train again; returns their names."""
    ask(ClusterState("local", run.folder), {"do": "scale", "peers": PEERS})
    wait_for("four peers train", lambda: len(run.training()) == PEERS)
    return sorted(run.training())


@pytest.mark.parametrize("view", ["textual", "rich"])
def test_peers_are_shown_killed_and_drained_in_a_terminal_of_any_size(
    run: ClusterRun, terminal: Tmux, tmp_path: Path, view: str
) -> None:
    if view == "textual":
        pytest.importorskip("textual", reason="pip install 'gossip-caffe[top]'")
    else:  # textual is not there, and there are no colours
        (tmp_path / "without" / "textual").mkdir(parents=True)
        (tmp_path / "without" / "textual" / "__init__.py").write_text(
            "raise ModuleNotFoundError(name=__name__)\n"
        )
        path = terminal.environment["PYTHONPATH"]
        terminal.environment.update(PYTHONPATH=f"{tmp_path / 'without'}{os.pathsep}{path}", NO_COLOR="1")
    killed, drained, *others = scaled(run)

    terminal.open(run.command("top"))

    for peer in (killed, drained, *others):
        terminal.sees(rf"^ ?{peer} +(training|idle)")
    seen = terminal.sees(r"^ ?PEER +STATE .*SMP/S +LOSS")
    assert "4 of 4 peers train" in seen
    terminal.sees(r"[▁▂▃▄▅▆▇█]{2}")
    if view == "rich":
        assert not re.search(
            r"\x1b\[[0-9;]*\b(3[0-7]|38|4[0-7]|48|9[0-7])\b", terminal.screen(with_colours=True)
        )

    select(terminal, run, killed)
    terminal.press("Enter")
    terminal.sees(rf"last exchange +\S+ ago, with {others[0][:1]}")
    terminal.press("Escape")
    terminal.press("k")
    terminal.sees(rf"kill {killed} \(pid \d+\)\?")
    terminal.press("n")
    terminal.sees(f"nothing was done to {killed}")
    terminal.press("k")
    terminal.sees(rf"kill {killed} \(pid \d+\)\?")
    terminal.press("y")
    terminal.sees(f"{killed} is gone; other peers")
    assert not re.search(rf"^ ?{killed} +\w+ +cpu", terminal.screen(), re.MULTILINE)

    select(terminal, run, drained)
    terminal.press("d")
    terminal.sees(rf"drain {drained}\?")
    terminal.press("y")
    terminal.sees(f"{drained} has left")

    terminal.call("resize-window", "-x", "40", "-y", "12")
    seen = terminal.sees(r"(?s)^ ?PEER STATE .*LOSS.*^q quit")
    for peer in others:
        assert re.search(rf"^ ?{peer} +(training|idle)", seen, re.MULTILINE)
    assert max(map(len, seen.splitlines())) <= 40
    assert len(seen.splitlines()) <= 12

    if view == "textual":
        terminal.press("q")
        terminal.sees("ended 0")
    else:
        (pid,) = (pid for pid, command in run.processes().items() if command.endswith(" gossip_caffe top "))
        os.kill(pid, signal.SIGTERM)
        terminal.sees("ended 143")
    terminal.assert_restored()


def test_a_status_is_watched_in_a_terminal_until_ctrl_c(run: ClusterRun, terminal: Tmux) -> None:
    scaled(run)
    terminal.open(run.command("status", "--watch"))
    terminal.sees(r"(?s)4 of 4 peers train.*^PEER +STATE .*[▁▂▃▄▅▆▇█]{2}")
    terminal.press("C-c")
    terminal.sees("ended 0")
    terminal.assert_restored()
