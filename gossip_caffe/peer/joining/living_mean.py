"""The mean of the peers that train: the weights of a peer that can load no checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

from gossip_caffe.gossip.averaging.bound import limit_of
from gossip_caffe.gossip.codecs.message import Message
from gossip_caffe.gossip.consensus import Consensus, mean_of
from gossip_caffe.gossip.policy.contact import Contact, NoContact
from gossip_caffe.peer.checkpoints.checkpointing import note_left_out
from gossip_caffe.peer.core.complaints import Complaints
from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.solver.engines.layout import WeightLayout


async def mean_of_living(
    world: PeerDependencies,
    peer: str,
    layout: WeightLayout,
    training: Mapping[str, str],
    complaints: Complaints,
    contact: Contact = NoContact(),  # noqa: B008 - it has no state
) -> Consensus | None:
    """The mean weights of the peers of ``training`` (peer → address); None when no peer answers.

    A peer that is left out of the mean, because its weights are too far away, is logged and named.
    """
    settings = world.spec.settings
    agreed = await mean_of(
        Message("", peer, world.spec.name, layout.fingerprint),
        layout.size,
        training,
        world.transport,
        world.rng,
        most=settings.checkpoint_peers,
        offload=world.offload,
        half_limit=limit_of(settings.half_limit, warm=False),
        contact=contact,
    )
    if agreed is not None and agreed.left_out:
        note_left_out(world, peer, agreed, complaints)
    return agreed
