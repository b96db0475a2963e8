"""The strategies by the name of the setting ``strategy``."""

from __future__ import annotations

from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.peer.core.strategy import MakeStrategy
from gossip_caffe.peer.sharing.pairwise import pairwise
from gossip_caffe.peer.sharing.synchronous import synchronous

STRATEGIES: dict[str, MakeStrategy] = {"pairs": pairwise, "sync": synchronous}


def strategy_of(settings: JobSettings) -> MakeStrategy:
    """The strategy that a job's settings name."""
    return STRATEGIES[settings.strategy]
