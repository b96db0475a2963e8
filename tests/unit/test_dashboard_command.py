"""The command that serves the page: its mistakes are one line, and its end is 0."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gossip_caffe.errors import ExitCode
from tests.cluster_run import ROOT
from tests.unit.test_report import LOGS


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "run" / "events").mkdir(parents=True)
    for peer, events in LOGS.items():
        (tmp_path / "run" / "events" / f"{peer}.jsonl").write_text("\n".join(map(json.dumps, events)) + "\n")
    return tmp_path / "run"


def begun(tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    hidden = {"DISPLAY", "WAYLAND_DISPLAY", "BROWSER"}
    around = {name: value for name, value in os.environ.items() if name not in hidden}
    return subprocess.Popen(
        [sys.executable, "-m", "gossip_caffe", "dashboard", *words],
        env={**around, "GOSSIP_CAFFE_STATE": str(tmp_path / "state"), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_the_page_is_and_ends_with_nothing_left_to_do(
    tmp_path: Path, run_dir: Path, number: signal.Signals
) -> None:
    process = begun(tmp_path, str(run_dir), "--open")
    assert process.stdout is not None
    assert process.stderr is not None
    said = process.stdout.readline()
    assert "http://127.0.0.1:" in said
    assert str(run_dir) in said
    assert "no browser was found here" in process.stderr.readline()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "the page is closed\n", "")


def test_a_port_beyond_loopback_is_said(tmp_path: Path, run_dir: Path) -> None:
    process = begun(tmp_path, str(run_dir), "--listen", "0.0.0.0:0")
    assert process.stdout is not None
    assert "http://127.0.0.1:" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert "every program that reaches 0.0.0.0:" in err


def test_mistakes_are_one_line(tmp_path: Path, run_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for words, code, says in (
            ((), ExitCode.NOT_FOUND, "there is no event log in"),
            (("--name", "../x"), ExitCode.USAGE, "cannot be the name of a cluster"),
            ((str(run_dir), "--job", "unreal"), ExitCode.NOT_FOUND, "no event logs of job unreal"),
            ((str(run_dir / "none"),), ExitCode.NOT_FOUND, "give --name of a cluster"),
            ((str(run_dir), "--listen", "here"), ExitCode.USAGE, "--listen 'here' is no HOST:PORT"),
            ((str(run_dir), "--listen", f"127.0.0.1:{port}"), ExitCode.CONFLICT, "the port is in use"),
        ):
            process = begun(tmp_path, *words)
            out, err = process.communicate(timeout=60)
            assert (process.returncode, out) == (code, "")
            assert says in err
            assert err.count("\n") == 1
