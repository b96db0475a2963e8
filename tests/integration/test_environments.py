"""What must happen in every row of ``environments``, ``machines`` and ``data_files`` happens, without a traceback."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gossip_caffe.cluster.etcd.server import EtcdServer
from tests.cluster_run import ROOT
from tests.data_files import DATA_ROWS
from tests.environments import ROWS, Row
from tests.machines import MACHINE_ROWS
from tests.odd_calls import odd_calls
from tests.tiny_job import TinyJob, write_job

DEADLINE_S = 150.0
ALL_ROWS = (*ROWS, *MACHINE_ROWS, *DATA_ROWS)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an etcd that runs."""
    server = EtcdServer(tmp_path_factory.mktemp("etcd") / "data", 0, "127.0.0.1")
    server.start()
    yield server.endpoint
    server.stop()


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> TinyJob:
    return write_job(tmp_path_factory.mktemp("job"), records=160, iterations=60)


def unusable(row: Row) -> str:
    """Why this machine cannot make the row's environment; "" when it can."""
    if "ODD_CALLS" in row.sets and odd_calls()[1]:
        return odd_calls()[1]
    if not row.within:
        return ""
    try:
        words = [*shlex.split(row.within), "true"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError as error:
        return f"{error.filename} is not installed"
    return "" if done.returncode == 0 else done.stderr.strip() or f"exit {done.returncode}"


@pytest.mark.parametrize("row", ALL_ROWS, ids=lambda row: row.name)
def test_in_every_environment_what_must_happen_happens(
    row: Row, job: TinyJob, etcd: str, tmp_path: Path
) -> None:
    if why := unusable(row):
        pytest.skip(f"{row.within}: {why}")
    work = tmp_path / "work"
    work.mkdir()
    (work / "solver.prototxt").write_text(job.solver.read_text())
    if row.data is not None:
        row.data(work)
    for name, text in row.files.items():
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GOSSIP_CAFFE_STATE": str(tmp_path / "state")}
    environment.pop("GOSSIP_CAFFE_ETCD", None)
    for name, value in row.sets.items():
        if value is None:
            environment.pop(name, None)
        else:
            meant = value.replace("ODDLIBRARY", odd_calls()[0] if "ODD_CALLS" in row.sets else "")
            environment[name] = meant.replace("ROOT", str(ROOT)).replace("WORK", str(work))
    command = shlex.join([sys.executable, "-m", "gossip_caffe", *row.words.replace("ETCD", etcd).split()])
    script = f"{row.before}\n{row.within} {command} {row.after}\nexit ${{PIPESTATUS[0]}}\n"
    done = subprocess.run(
        ["bash", "-c", script],
        env=environment,
        cwd=work,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=DEADLINE_S,
        check=False,
    )
    said = f"{done.stdout}{done.stderr}"
    assert done.returncode in row.codes, said
    assert "Traceback" not in said, said
    assert "defect" not in said, said
    assert re.search(row.says, said), said
    assert not (row.hides and row.hides in said), said
    assert not row.leaves or (work / row.leaves).exists(), said
    if done.returncode and row.says:
        lines = [line for line in said.splitlines() if line.startswith("gossip-caffe: ")]
        assert len(lines) == 1, said
        assert "; " in lines[0], "it says what to do"


def test_names_of_rows_are_their_own() -> None:
    assert len({row.name for row in ALL_ROWS}) == len(ALL_ROWS)
