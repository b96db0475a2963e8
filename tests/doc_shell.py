"""A user's shell for the blocks of a page: what a block exports, and where it goes, holds for the next one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.doc_blocks import ROOT, Block

_KEPT = """
set -eo pipefail
[ ! -e "$STATE_FILE" ] || . "$STATE_FILE"
trap '{ export -p; printf "cd %q\\n" "$PWD"; } > "$STATE_FILE"' EXIT
"""


class DocShell:
    """Runs blocks in a folder, with a home of its own; on a machine that ``way`` leads to, if given.

    ``stop`` ends what blocks left in the background.
    """

    def __init__(self, folder: Path, *, way: Sequence[str] = (), home: Path | None = None) -> None:
        self._folder = folder
        self._way = tuple(way)
        self._state = folder / ".shell-state"
        self._sessions: list[int] = []
        # the console scripts of the Python that runs the tests, as after `source .venv/bin/activate`
        programs = str(Path(sys.executable).parent)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GOSSIP_CAFFE_")}
        self._environment = {
            **kept,
            "PATH": os.pathsep.join((programs, kept.get("PATH", os.defpath))),
            "PYTHONPATH": str(ROOT),
            "HOME": str(home or folder),
            "XDG_STATE_HOME": "",
            "STATE_FILE": str(self._state),
        }
        self._environment.pop("XDG_STATE_HOME")

    def run(self, block: Block, timeout_s: float) -> str:
        """Run a block; returns what it printed. Fails the test for another exit code than the block's mark names."""
        script = _KEPT + "".join(f"{line}\n" for line in (block.option("first"), block.script) if line)
        code, printed = self.script(script, timeout_s)
        expected = int(block.option("exit") or 0)
        assert code == expected, (
            f"{block.place}: exit code {code} instead of {expected}\n{block.text}\n{printed}"
        )
        return printed

    def script(self, script: str, timeout_s: float) -> tuple[int, str]:
        """Run a script; returns its exit code and what it printed."""
        log = self._folder / ".shell-output"
        with log.open("wb") as out:
            child = subprocess.Popen(
                [*self._way, "bash", "-c", script],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._sessions.append(child.pid)
        try:
            code = child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = -1
            self._signal(child.pid, signal.SIGKILL)
            child.wait()
        return code, log.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        """End what is left in the background, in good order where it takes no longer than ten seconds."""
        for session in self._sessions:
            self._signal(session, signal.SIGTERM)
        deadline = time.monotonic() + 10
        while any(self._lives(session) for session in self._sessions) and time.monotonic() < deadline:
            time.sleep(0.05)
        for session in self._sessions:
            self._signal(session, signal.SIGKILL)

    def _signal(self, group: int, number: int) -> None:
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            pass

    def _lives(self, group: int) -> bool:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        return True


def missing_lines(expected: Sequence[str], printed: str) -> list[str]:
    """The lines of ``expected`` that are not in ``printed`` in this order; ``…`` stands for any text."""
    rest = [" ".join(line.split()) for line in printed.split("\n")]
    missing = []
    for line in expected:
        pattern = re.compile(".*".join(re.escape(part) for part in " ".join(line.split()).split("…")))
        at = next((number for number, found in enumerate(rest) if pattern.fullmatch(found)), None)
        if at is None:
            missing.append(line)
        else:
            rest = rest[at + 1 :]
    return missing
