"""gossip-caffe: elastic, masterless training of Caffe models.

``import gossip_caffe`` loads nothing else: each name below is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gossip_caffe import aio
    from gossip_caffe.api.checking import Checks
    from gossip_caffe.api.evaluating import Evaluation
    from gossip_caffe.api.joined import Batch, JoinedPeer, join
    from gossip_caffe.api.sync import Checkpoint, Checkpoints, Connection, check, connect, evaluate
    from gossip_caffe.api.sync_training import Run, start, train
    from gossip_caffe.api.values.chart import LiveChart
    from gossip_caffe.api.values.result import Result
    from gossip_caffe.api.values.shards_view import Shards
    from gossip_caffe.api.values.views import Job, JobEvent, Jobs, Peer, Peers, Status
    from gossip_caffe.errors import GossipCaffeError
    from gossip_caffe.security.given import identity
    from gossip_caffe.security.security import Security

__version__ = "0.1.0"
__all__ = [
    "Batch",
    "Checkpoint",
    "Checkpoints",
    "Checks",
    "Connection",
    "Evaluation",
    "GossipCaffeError",
    "Job",
    "JobEvent",
    "Jobs",
    "JoinedPeer",
    "LiveChart",
    "Peer",
    "Peers",
    "Result",
    "Run",
    "Security",
    "Shards",
    "Status",
    "__version__",
    "aio",
    "check",
    "connect",
    "evaluate",
    "identity",
    "join",
    "start",
    "train",
]
_PLACES = {
    "Evaluation": "api.evaluating",
    "GossipCaffeError": "errors",
    "LiveChart": "api.values.chart",
    "Result": "api.values.result",
    "Security": "security.security",
    "identity": "security.given",
    "Shards": "api.values.shards_view",
    **dict.fromkeys(("Job", "JobEvent", "Jobs", "Peer", "Peers", "Status"), "api.values.views"),
    **dict.fromkeys(("Checkpoint", "Checkpoints", "Connection", "check", "connect", "evaluate"), "api.sync"),
    "Checks": "api.checking",
    **dict.fromkeys(("Run", "start", "train"), "api.sync_training"),
    **dict.fromkeys(("Batch", "JoinedPeer", "join"), "api.joined"),
}
"""Name → the module that has it."""


def __getattr__(name: str) -> Any:
    """Load a name when it is first used (PEP 562): the command line must not wait for all of them."""
    if name == "aio":
        return importlib.import_module("gossip_caffe.aio")
    if name not in _PLACES:
        raise AttributeError(f"module 'gossip_caffe' has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(f"gossip_caffe.{_PLACES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
