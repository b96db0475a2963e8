"""The trouble of a peer that does not train yet, written to the store so that tables show why the peer waits."""

from __future__ import annotations

from collections.abc import Callable

from gossip_caffe.errors import StoreError
from gossip_caffe.membership.etcd.store import Put
from gossip_caffe.observe.log.status import PeerStatus
from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.peer.core.unreached import LOOK_EVERY_S


async def publish_trouble(
    world: PeerDependencies, lease: Callable[[], int], status: Callable[[], PeerStatus | None]
) -> None:
    """Write the peer's ``status`` under its ``lease`` (0: it has none) whenever its trouble has changed.

    Returns once ``status`` returns None: the peer trains, and reports its trouble with its figures.
    """
    told = ""
    while (now := status()) is not None:
        if now.trouble != told and (held := lease()):
            told = now.trouble
            try:
                await world.store.transact([], [Put(world.keys.status(now.peer), now.to_json(), held)])
            except StoreError:
                pass  # the peer's own terminal shows the trouble as well
        await world.clock.sleep(LOOK_EVERY_S)
