"""The tests of a marked file run in one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOGETHER = """
import os
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("together")


@pytest.fixture(scope="module")
def costly():
    with (Path(__file__).parent / "made").open("a") as file:
        file.write(f"{os.getpid()}\\n")


@pytest.mark.parametrize("number", range(8))
def test_one_of_many(costly, number):
    time.sleep(0.02)
"""
APART = """
import time

import pytest


@pytest.mark.parametrize("number", range(8))
def test_one_of_many(number):
    time.sleep(0.02)
"""


def test_what_the_tests_of_a_marked_file_share_is_made_once(tmp_path: Path) -> None:
    (tmp_path / "test_together.py").write_text(TOGETHER)
    (tmp_path / "test_apart.py").write_text(APART)
    words = ["-q", "-n", "2", "--dist", "loadgroup", "-p", "tests.side_by_side", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, "--rootdir", str(tmp_path), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "16 passed" in done.stdout
    assert len((tmp_path / "made").read_text().splitlines()) == 1
