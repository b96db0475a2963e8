"""The image, which is built once for all tests of containers."""

from __future__ import annotations

import pytest

from tests.system.containers import Containers, image


@pytest.fixture(scope="session")
def engine() -> Containers:
    """Podman with our image."""
    return image()
