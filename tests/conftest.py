"""Settings for all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from tests.failed_runs import TellsOfFailedRuns
from tests.optional import SkipsWhatIsMissing

# A shared machine may stall any example; what a test must bound in time it bounds itself.
settings.register_profile("gossip-caffe", deadline=None)
settings.load_profile("gossip-caffe")

# A shell ignores it in what it starts in the background, and every process of a test would, too: some get Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
# nohup does the same to the signal of a terminal that closes.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Tests run side by side: a BLAS with a thread for each core would only wait for its own threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Hundreds of processes import the same modules: they are compiled once.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

_HERE = Path(__file__).parent
_FOLDERS = ("unit", "integration", "chaos", "simulation", "gpu", "system")


def pytest_configure(config: pytest.Config) -> None:
    """Skip what cannot run here, with the reason, and say what failed clusters did."""
    config.pluginmanager.register(SkipsWhatIsMissing())
    config.pluginmanager.register(TellsOfFailedRuns())
    if config.pluginmanager.hasplugin("xdist"):
        from tests import side_by_side  # noqa: PLC0415 - it imports xdist

        config.pluginmanager.register(side_by_side)


def pytest_xdist_auto_num_workers() -> int:
    """So many tests at a time with `-n auto`: those of chaos mostly wait, so two for each core that may be used."""
    return min(2 * len(os.sched_getaffinity(0)), 16)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its folder: `pytest -m unit`."""
    for item in items:
        parts = Path(item.path).relative_to(_HERE).parts
        for folder in _FOLDERS:
            if folder in parts:
                item.add_marker(folder)
        if "chaos" in parts:
            item.add_marker(pytest.mark.needs("etcd"))  # its own, or that of a cluster
