"""Settings for all tests."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import settings

# A shared machine may stall any example; what a test must bound in time it bounds itself.
settings.register_profile("gossip-caffe", deadline=None)
settings.load_profile("gossip-caffe")

# A shell ignores it in what it starts in the background, and every process of a test would, too: some get Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

_HERE = Path(__file__).parent
_FOLDERS = ("unit", "integration", "chaos", "simulation", "gpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its folder: `pytest -m unit`."""
    for item in items:
        parts = Path(item.path).relative_to(_HERE).parts
        for folder in _FOLDERS:
            if folder in parts:
                item.add_marker(folder)
