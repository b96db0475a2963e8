"""Asking a peer to leave, from wherever the store can be reached.

The request is a key on the lease of the incarnation that is asked, so it goes with it: a peer that takes the name later
is not asked. Only the peer itself watches it.
"""

from __future__ import annotations

import json

from gossip_caffe.clock import Clock
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.membership.store import ModifiedAt, Put, Reset, Store
from gossip_caffe.stored import read_object

LOOK_EVERY_S = 0.2


async def ask_to_leave(store: Store, keys: JobKeys, peer: str, by: str) -> PeerRecord | None:
    """Ask a living peer to leave; ``by`` is what it gives as its reason. Asking again changes nothing.

    Returns the record of the incarnation that was asked, None when no peer of that name lives.
    """
    while (item := await store.get(keys.peer(peer))) is not None:
        request = Put(keys.leave(peer), json.dumps({"by": by}).encode(), item.lease)
        if (await store.transact([ModifiedAt(item.key, item.mod_revision)], [request])).succeeded:
            return PeerRecord.from_json(item.value)
    return None


async def gone(store: Store, keys: JobKeys, record: PeerRecord, clock: Clock, deadline_s: float) -> bool:
    """Wait until that incarnation of a peer is no member any more; False when it is one after ``deadline_s``."""
    give_up_at = clock.monotonic() + deadline_s
    while True:
        item = await store.get(keys.peer(record.peer))
        if item is None or PeerRecord.from_json(item.value).incarnation != record.incarnation:
            return True
        if clock.monotonic() >= give_up_at:
            return False
        await clock.sleep(LOOK_EVERY_S)


async def asked_to_leave(store: Store, keys: JobKeys, peer: str) -> str:
    """Return once this peer is asked to leave: by what."""
    key = keys.leave(peer)
    async for item in store.watch(key):
        found = item.listing.items if isinstance(item, Reset) else (item.value,)
        for entry in found:
            # The watch is of a prefix: "p1" also sees what is asked of "p10".
            if entry is not None and entry.key == key:
                try:
                    return str(read_object(entry.value)["by"])
                except (ValueError, KeyError):
                    continue  # nobody asks in this way
    return ""
