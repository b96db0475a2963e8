"""A job without living peers goes on from its newest checkpoint when one comes back."""

from __future__ import annotations

from pathlib import Path

from tests.cluster_run import cluster_run, wait_for
from tests.tiny_job import write_job


def test_when_all_peers_have_left_new_ones_go_on_from_the_checkpoint_that_they_left(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", iterations=400_000)
    with cluster_run(tmp_path / "state") as run:
        run.start("cluster", "up", "--peers", "2", "--solver", str(job.solver))
        wait_for("both train", lambda: len(run.training()) == 2)
        wait_for(
            "some of it is done",
            lambda: any(peer["progress_samples"] > 5000 for peer in run.peers().values()),
        )
        assert run.run("cluster", "scale", "0").returncode == 0
        assert run.run("cluster", "scale", "1").returncode == 0
        back = wait_for("a new peer trains", lambda: run.training().get("p2"))
        assert back["progress_samples"] > 5000
        log = (run.folder / "clusters" / "local" / "logs" / "p2.log").read_text()
        assert "from checkpoint" in log
        assert run.run("cluster", "down").returncode == 0
        run.assert_nothing_is_left()
