"""A cluster for the time of one command: its folder goes with it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

from gossip_caffe.cluster.state import ClusterState, clusters_root
from gossip_caffe.errors import Conflict

PREFIX = "train-"
FRESH_S = 120.0
"""A folder of this age may be one whose command is just about to take it."""


@contextmanager
def temporary_cluster(name: str) -> Iterator[ClusterState]:
    """The state of a cluster of that name, with PREFIX before it.

    Its folder is removed at the end, but left with all logs in it when the work in this block fails. Folders that an
    earlier command left are removed before.
    """
    sweep()
    state = ClusterState(f"{PREFIX}{name}")
    yield state
    shutil.rmtree(state.folder, ignore_errors=True)


def sweep() -> None:
    """Remove what is left of commands that failed or were killed."""
    for folder in (clusters_root() / "clusters").glob(f"{PREFIX}*"):
        try:
            if time.time() - folder.stat().st_mtime < FRESH_S:
                continue
            with ClusterState(folder.name).lock():
                shutil.rmtree(folder, ignore_errors=True)
        except (Conflict, FileNotFoundError):
            continue  # it is up, or somebody else has swept it
