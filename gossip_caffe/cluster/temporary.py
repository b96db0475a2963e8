"""A cluster that lasts as long as one command. Its folder is removed at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gossip_caffe.checkpoint.manifest import MANIFEST
from gossip_caffe.cluster.state.folder import ClusterState, clusters_root
from gossip_caffe.errors import Conflict, EnvironmentProblem

PREFIX = "train-"
FRESH_S = 120.0
"""A younger folder is not removed: its command may be about to lock it."""
KEPT_DAYS = 7


@contextmanager
def temporary_cluster(name: str) -> Iterator[ClusterState]:
    """Yield the state of a new cluster with the name PREFIX + ``name``.

    Its folder is removed at the end of the block. When the block fails, the folder stays, with all logs. Folders that
    earlier commands left are removed first; those with trained weights only after KEPT_DAYS.
    """
    sweep()
    state = ClusterState(f"{PREFIX}{name}")
    yield state
    state.remove()


def sweep() -> None:
    """Remove the folders of commands that failed or were killed."""
    for folder in (clusters_root() / "clusters").glob(f"{PREFIX}*"):
        try:
            age_s = time.time() - folder.stat().st_mtime
            if age_s < FRESH_S or (age_s < KEPT_DAYS * 86_400 and _holds_learning(folder)):
                continue
            left = ClusterState(folder.name)
            with left.lock():
                left.remove()
        except (Conflict, EnvironmentProblem, FileNotFoundError):
            continue  # the cluster is up, another process has removed the folder, or it is another user's


def _holds_learning(folder: Path) -> bool:
    """True if the folder contains a checkpoint with trained weights: its progress is not 0 (see ``checkpoint_id``)."""
    names = (path.parent.name for path in folder.glob(f"run/checkpoints/*/*/{MANIFEST}"))
    return any(name.partition("-")[0].strip("0") for name in names)
