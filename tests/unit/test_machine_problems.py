"""The limits that a command finds around it."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIMITS = "import resource; print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
RAISED = (
    f"from gossip_caffe.cli.terminal.machine_problems import allow_many_files; allow_many_files(); {LIMITS}"
)
COMMAND = (
    "import sys; sys.argv = ['gossip-caffe', '--version']\n"
    "from gossip_caffe.cli.main import main\n"
    f"try:\n main()\nexcept SystemExit:\n {LIMITS}"
)


def limits_after(code: str, soft: int, hard: int) -> tuple[int, int]:
    """The soft and the hard limit on open files after that code, in a process that begins with these."""
    done = subprocess.run(
        [
            "sh",
            "-c",
            f'ulimit -S -n {soft} && ulimit -H -n {hard} && exec "$0" -c "$1"',
            sys.executable,
            code,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    now_soft, now_hard = done.stdout.splitlines()[-1].split()
    return int(now_soft), int(now_hard)


@pytest.mark.parametrize("code", [RAISED, COMMAND], ids=["by itself", "by a command"])
def test_the_soft_limit_on_open_files_is_raised_to_the_hard_one(code: str) -> None:
    assert limits_after(code, 256, 400) == (400, 400)


def test_a_limit_that_is_the_hard_one_already_is_left() -> None:
    assert limits_after(RAISED, 400, 400) == (400, 400)
