"""The rank of a peer's Python layers, where the net makes its own data, and the lines about it for people."""

from __future__ import annotations

from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.peer.registration.incarnation import Incarnation
from gossip_caffe.peer.work.trainer import Trainer
from gossip_caffe.solver.engines.place import LayerRank


def tell_rank(world: PeerDependencies, trainer: Trainer, incarnation: Incarnation) -> None:
    """Give this incarnation's rank to the solvers that are made from now on, and say it.

    Does nothing for a net that does not make its own data.
    """
    if not world.spec.ranks:
        return
    before, place = trainer.place, LayerRank(incarnation.number, world.spec.ranks)
    trainer.place, peer = place, incarnation.registration.record.peer
    world.say_once(f"{peer}: its Python layers are told rank {place.rank} of {place.count}")
    if place.is_shared and place != before:
        world.warn(
            f"{peer}: another peer may have rank {place.rank}, too, and train the same records in the same order: when "
            f"it came more peers trained than the job has ranks ({place.count}); create the job with "
            "--set layer_ranks=N"
        )
