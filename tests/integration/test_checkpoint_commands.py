"""``gossip-caffe checkpoint``: a job's checkpoints as its users have them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.manifest import MODEL
from gossip_caffe.errors import ExitCode
from tests.cluster_run import ROOT, cluster_run, one_line, wait_for
from tests.tiny_job import write_job
from tests.unit.test_checkpoint_files import WEIGHTS, manifest_of, write_state

pytestmark = [pytest.mark.integration, pytest.mark.needs("caffe", "etcd")]

_GOES_ON = """
import sys
import caffe
caffe.set_mode_cpu()
solver = caffe.get_solver(sys.argv[1])
solver.restore(sys.argv[2])
print(solver.iter)
solver.step(3)
solver.test_nets[0].copy_from(sys.argv[3])
"""


def test_checkpoints_are_listed_fetched_checked_and_exported_while_the_job_trains(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", iterations=1_000_000, pace_ms=20)
    with cluster_run(tmp_path / "state") as run:
        every = ("--set", "checkpoint_every_samples=8000", "--set", "keep_checkpoints=1000")
        run.start("cluster", "up", "--peers", "2", "--solver", str(job.solver), *every)

        def listed() -> list[dict[str, Any]]:
            done = run.run("checkpoint", "list", "--json")
            return json.loads(done.stdout) if done.returncode == 0 else []

        def both_hold_one() -> dict[str, Any] | None:
            found = [entry for entry in listed() if len(entry["holders"]) == 2 and entry["iteration"]]
            return found[0] if found else None

        wait_for("both train", lambda: len(run.training()) == 2)
        entry = wait_for("both hold a checkpoint", both_hold_one)
        name = entry["checkpoint"]
        assert name in run.run("checkpoint", "list", "--job", "solver").stdout

        here = tmp_path / "here"
        done = run.run("checkpoint", "pull", name, "--to", str(here), "--json")
        assert done.returncode == 0, done.stderr
        pulled = json.loads(done.stdout)
        assert (pulled["checkpoint"], pulled["digest"]) == (name, entry["digest"])
        assert run.run("checkpoint", "verify", str(here / name)).stdout == f"{here / name}: whole\n"

        broken = run.folder / "clusters" / "local" / "run" / "checkpoints" / "p0" / name / MODEL
        broken.write_bytes(broken.read_bytes()[:-5])
        done = run.run("checkpoint", "verify", name, "--json")
        assert done.returncode == ExitCode.FAILED, done.stderr
        assert "1 of 2 copies cannot be used" in one_line(done)
        assert sorted(copy["whole"] for copy in json.loads(done.stdout)) == [False, True]
        for number in range(2):  # whichever holder is asked first
            done = run.run("checkpoint", "pull", name, "--to", str(tmp_path / f"again{number}"))
            assert done.returncode == 0, done.stderr

        prefix = tmp_path / "exported"
        done = run.run("checkpoint", "export", name, "--to", str(prefix))
        assert done.stdout.splitlines() == [f"{prefix}.caffemodel", f"{prefix}.solverstate"], done.stderr
        assert run.run("cluster", "down").returncode == 0
        run.assert_nothing_is_left()

    words = [str(job.solver), f"{prefix}.solverstate", f"{prefix}.caffemodel"]
    plain = subprocess.run(
        [sys.executable, "-c", _GOES_ON, *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        check=False,
    )
    assert plain.returncode == 0, plain.stderr
    assert int(plain.stdout) == entry["iteration"]


def test_a_folder_needs_no_etcd_and_a_mistake_is_one_line(tmp_path: Path) -> None:
    CheckpointFolder(tmp_path).write(manifest_of("c1"), WEIGHTS, write_state)
    unfinished = tmp_path / ".unfinished-of-a-living-peer"
    unfinished.mkdir()
    with cluster_run(tmp_path / "state") as run:
        done = run.run("checkpoint", "export", str(tmp_path / "c1"), "--to", str(tmp_path / "x"), "--json")
        assert json.loads(done.stdout) == [str(tmp_path / "x.caffemodel"), str(tmp_path / "x.solverstate")]
        assert unfinished.is_dir()
        for words, code, says in (
            (("export", "c1", "--to", str(tmp_path / "no" / "x")), ExitCode.NOT_FOUND, "there is no folder"),
            (("list",), ExitCode.USAGE, "no etcd is given"),
            (("verify", str(tmp_path)), ExitCode.FAILED, "1 of 1 copies"),
        ):
            done = run.run("checkpoint", *words)
            assert (done.returncode, says in one_line(done)) == (code, True), done.stderr
