"""The state of a failed test's cluster: printed with the failure, because its folder is gone when it is read."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster_run import ClusterRun

LINES_PER_FILE = 25
MOST_FILES = 12
OFTEN = ("trained", "claimed", "done", "offered", "exchanged", "weighed", "progress", "displayed")
"""Events that say little of why a run stands still, and come often."""


class TellsOfFailedRuns:
    """Adds to the report of a failed test: the processes of its cluster, and the end of each of its logs."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, Any, Any]:
        report = yield
        if report.when == "call" and report.failed:
            for run in getattr(item, "funcargs", {}).values():
                if isinstance(run, ClusterRun):
                    report.sections.append(("processes of the cluster", _processes(run)))
                    report.sections += [
                        (str(path.relative_to(run.folder)), _end(path)) for path in _logs(run)
                    ]
        return report


def _processes(run: ClusterRun) -> str:
    lines = []
    for pid, command in sorted(run.processes().items()):
        lines.append(f"{pid} {_read(pid, 'wchan') or '-'} {command}")
    return "\n".join(lines) or "none is left"


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text().strip("\0\n ")
    except OSError:
        return ""


def _logs(run: ClusterRun) -> list[Path]:
    found = [path for pattern in ("*.log", "*.jsonl") for path in run.folder.rglob(pattern) if path.is_file()]
    return sorted(found, key=lambda path: path.stat().st_mtime)[-MOST_FILES:]


def _end(path: Path) -> str:
    """The last lines of a file, without the events that come often."""
    try:
        with path.open(errors="replace") as file:
            kept = (line for line in file if not any(f'"event":"{often}"' in line for often in OFTEN))
            return "".join(line[:400].rstrip("\n") + "\n" for line in deque(kept, LINES_PER_FILE))
    except OSError as error:
        return f"cannot be read: {error}"
