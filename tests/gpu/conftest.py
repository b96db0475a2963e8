"""A GPU for all tests of this folder; where there is none they are skipped, with the reason that a user would get."""

from __future__ import annotations

import asyncio
import os

import pytest

from gossip_caffe.errors import GossipCaffeError
from gossip_caffe.solver.checks.gpu_trial import look_at_gpus
from gossip_caffe.solver.gpu.gpus import Gpu, chosen


@pytest.fixture(scope="session")
def gpu() -> Gpu:
    """The GPU with the most free memory, or the one that $GOSSIP_CAFFE_TEST_GPU names."""
    named = os.environ.get("GOSSIP_CAFFE_TEST_GPU")
    try:
        return chosen(asyncio.run(look_at_gpus()), int(named) if named else None)
    except GossipCaffeError as error:
        pytest.skip(error.message)
