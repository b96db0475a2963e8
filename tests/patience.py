"""No exchange is given up because this machine is busy: where a test is not about deadlines, none passes."""

from __future__ import annotations

import pytest

from gossip_caffe.gossip.policy import deadline
from gossip_caffe.gossip.transport import grpc_transport

PATIENCE_S = 60.0


def be_patient(patch: pytest.MonkeyPatch) -> None:
    """Until ``patch`` is undone."""
    patch.setattr(deadline, "FIRST_S", PATIENCE_S)
    patch.setattr(deadline, "SHORTEST_S", PATIENCE_S)
    patch.setattr(grpc_transport, "SHOW_S", PATIENCE_S)
