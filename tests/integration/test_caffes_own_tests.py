"""The tests that come with Caffe, on the pycaffe that is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.needs("caffe")]

RUNNER = Path(__file__).parents[2] / "deploy" / "pycaffe" / "run_caffe_tests.py"
NUMBER = 50
KNOWN_FAILURES: dict[str, str] = {}  # test id: cause


def test_caffes_own_python_tests_pass() -> None:
    done = subprocess.run(
        [sys.executable, str(RUNNER)], capture_output=True, text=True, timeout=250, check=False
    )
    kind, _, found = done.stdout.strip().rpartition("\n")[2].partition(" ")
    assert kind == "RESULT", done.stderr
    result = json.loads(found)
    assert result["failed"] == sorted(KNOWN_FAILURES), done.stderr
    assert (result["run"], result["skipped"]) == (NUMBER, 0)
