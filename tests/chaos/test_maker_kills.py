"""Whoever makes a checkpoint may die at any point: none that is broken is announced, and another peer makes one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gossip_caffe.checkpoint.announce import Announcement, announced
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.data.sources.source import measure
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.membership.keys import JobKeys
from tests.cluster_run import ClusterRun, cluster_run, wait_for
from tests.etcd_read import asked
from tests.tiny_job import write_job

POINTS: tuple[str, ...] = (
    "elected",
    "collecting",
    "writing",
    "before-renaming",
    "before-announcing",
    "after-announcing",
    "copying",
    "replicating",
)
if not os.environ.get("GOSSIP_CAFFE_EVERY_DEATH"):
    POINTS = ("writing", "before-announcing", "replicating")
EVERY = 30_000
"""Samples between two checkpoints: several seconds, of which a lease of two takes a part."""


def listed(run: ClusterRun) -> list[Announcement]:
    return asked(run.status()["etcd"], lambda store: announced(store, JobKeys("solver")))


def test_the_maker_dies_at_every_point_and_the_next_checkpoint_comes_from_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    die = tmp_path / "die"
    die.mkdir()
    monkeypatch.setenv("GOSSIP_CAFFE_DIE", str(die))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "dying"))
    settings = {"lease_ttl_s": "4", "checkpoint_every_samples": str(EVERY), "keep_checkpoints": "100"}
    job = write_job(tmp_path / "job", records=9600, batch=64, iterations=1_000_000, pace_ms=20)
    spec = read_job(
        "solver",
        job.solver,
        JobSettings(lease_ttl_s=4.0, checkpoint_every_samples=EVERY, keep_checkpoints=100),
        measure,
    )
    with cluster_run(tmp_path / "state") as run:
        words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        run.start("cluster", "up", "--peers", "3", "--restart", "--solver", str(job.solver), *words)
        folders = run.folder / "clusters" / "local" / "run" / "checkpoints"

        def assert_all_are_whole() -> None:
            for entry in listed(run):
                for peer in entry.holders:
                    folder = CheckpointFolder(folders / peer, own=False)
                    manifest = folder.manifest(entry.checkpoint)
                    assert manifest.digest == entry.digest
                    folder.load(
                        entry.checkpoint,
                        job_fingerprint=spec.fingerprint,
                        layout_fingerprint=manifest.weight_layout().fingerprint,
                    )

        for point in POINTS:
            wait_for("all peers train", lambda: len(run.training()) == 3)
            (die / point).touch()

            def died(point: str = point) -> str:
                return next(
                    (path.name.removeprefix(f"died-{point}-") for path in die.glob(f"died-{point}-*")), ""
                )

            dead = wait_for(f"an agent dies {point}", died)
            newest = listed(run)[0].progress_samples
            assert_all_are_whole()

            def next_one(dead: str = dead, newest: int = newest) -> Announcement | None:
                found = listed(run)[0]
                return found if found.progress_samples > newest and dead not in found.checkpoint else None

            following = wait_for(f"another peer makes the next one after {point}", next_one)
            # It was due one interval after the newest, and whoever made it died then.
            assert following.progress_samples - newest <= (1 + 2) * EVERY, point
            assert_all_are_whole()
        assert run.run("cluster", "down").returncode == 0
        run.assert_nothing_is_left()
