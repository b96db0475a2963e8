"""The refusal of a script whose net is not that of the job's other peers (``same-model``), before it asks them."""

from __future__ import annotations

from collections.abc import Iterable

from gossip_caffe.errors import ModelError
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.peer.core.lifecycle import State
from gossip_caffe.solver.engines.layout import WeightLayout


def refuse_another_net(members: Iterable[PeerRecord], layout: WeightLayout) -> None:
    """Raise ModelError if peers train, and none of them has weights of this layout."""
    training = [record for record in members if record.state == State.TRAINING.value]
    if training and all(record.fingerprint != layout.fingerprint for record in training):
        names = ", ".join(sorted(record.peer for record in training)[:3]) + (
            " …" if len(training) > 3 else ""
        )
        raise ModelError(
            f"the net of this script ({layout.size:,} weights) is not the one that the job's peers train ({names})",
            remedy="give it the same layers with the same names and shapes, or train another job",
        )
