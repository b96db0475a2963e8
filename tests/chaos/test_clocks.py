"""Wall clocks that are set back or forward under a run, or that differ from process to process, do it no harm."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster_run import ClusterRun, wait_for
from tests.odd_calls import odd_calls
from tests.tiny_job import write_job

pytestmark = pytest.mark.skipif(bool(odd_calls()[1]), reason=odd_calls()[1])


@dataclass
class OddRun(ClusterRun):
    """A run whose processes have the clock that ``odd`` says."""

    odd: tuple[tuple[str, str], ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "LD_PRELOAD": odd_calls()[0], **dict(self.odd)}


@pytest.fixture
def step(tmp_path: Path) -> Path:
    """A file: once it is there the clocks have moved."""
    return tmp_path / "step"


CLOCKS = {"back": "ODD_CLOCK:-3600", "forward": "ODD_CLOCK:86400", "apart": "ODD_CLOCKS:600"}


@pytest.fixture
def run(tmp_path: Path, step: Path, request: pytest.FixtureRequest) -> Iterator[OddRun]:
    name, _, seconds = CLOCKS[request.param].partition(":")
    value = f"{step}:{seconds}" if name == "ODD_CLOCK" else seconds
    made = OddRun(tmp_path / "state", odd=((name, value),))
    yield made
    for pid in made.processes():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "run",
    [pytest.param(name, marks=[] if name == "apart" else pytest.mark.long) for name in CLOCKS],
    indirect=True,
)
def test_a_run_with_a_kill_a_joiner_and_a_start_anew_is_whole_whatever_the_clocks_say(
    run: OddRun, step: Path, tmp_path: Path
) -> None:
    job = write_job(tmp_path / "job", records=1600, batch=16, iterations=3_000, pace_ms=8)
    up = ("cluster", "up", "--solver", str(job.solver), "--set", "lease_ttl_s=5")
    process = run.start(*up, "--peers", "2", "--set", "checkpoint_every_samples=8000")
    wait_for("two peers train", lambda: len(run.training()) == 2)
    step.touch()
    assert run.run("cluster", "scale", "3").returncode == 0
    wait_for("three peers train", lambda: len(run.training()) == 3)
    victim = min(run.training().values(), key=lambda peer: str(peer["peer"]))
    os.kill(int(victim["agent_pid"]), signal.SIGKILL)
    wait_for("the others go on", lambda: len(run.training()) == 2)
    wait_for("a checkpoint is made", lambda: any(run.folder.glob("clusters/local/run/checkpoints/*/*-*")))

    for pid in run.processes():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait()
    step.unlink(missing_ok=True)  # the clocks go back, or forward, once more
    job.hurry()
    process = run.start(*up, "--peers", "2", "--set", "checkpoint_every_samples=8000")
    wait_for("the job is finished", lambda: process.poll() is not None, 400.0)
    assert process.returncode == 0, (run.folder / "up.log").read_text()
    done = run.run("verify", str(run.folder / "clusters" / "local" / "run"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "records learned, 0 lost" in done.stdout
