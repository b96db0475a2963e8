"""Requests to a peer to leave, made from any machine that can reach the store.

A request is a key that is attached to the lease of the incarnation that is asked, and ends with that lease. A peer
that takes the same name later is therefore not asked. Only the peer itself watches the key.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from gossip_caffe.clock import Clock
from gossip_caffe.json_records import read_object
from gossip_caffe.membership.etcd.store import KeyValue, ModifiedAt, Put, Reset, Store
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import PeerRecord, member_of
from gossip_caffe.observe.log.ignored import Note, discard_note
from gossip_caffe.plain import is_text

LOOK_EVERY_S = 0.2
MOST_REASON = 200
"""Limit of a request's reason, in characters."""


async def ask_to_leave(store: Store, keys: JobKeys, peer: str, by: str) -> PeerRecord | None:
    """Ask a living peer to leave; ``by`` is the reason that the peer then reports. Asking again changes nothing.

    Returns the record of the incarnation that was asked; None when no peer of that name lives.
    """
    while (item := await store.get(keys.peer(peer))) is not None:
        try:
            record = member_of(item, peer)
        except ValueError:
            return None  # the key belongs to no living peer
        request = Put(keys.leave(peer), json.dumps({"by": by}).encode(), item.lease)
        if (await store.transact([ModifiedAt(item.key, item.mod_revision)], [request])).succeeded:
            return record
    return None


async def wait_until_gone(
    store: Store, keys: JobKeys, record: PeerRecord, clock: Clock, deadline_s: float
) -> bool:
    """Wait until that incarnation of a peer is no longer a member.

    Returns False when it still is a member after ``deadline_s``.
    """
    give_up_at = clock.monotonic() + deadline_s
    while True:
        item = await store.get(keys.peer(record.peer))
        if item is None or not _is_of(item, record):
            return True
        if clock.monotonic() >= give_up_at:
            return False
        await clock.sleep(LOOK_EVERY_S)


def _is_of(item: KeyValue, record: PeerRecord) -> bool:
    try:
        return PeerRecord.from_json(item.value).incarnation == record.incarnation
    except ValueError:
        # another writer overwrote the record of a living peer
        return f"{item.lease:x}" == record.incarnation


async def wait_for_leave_request(
    store: Store,
    keys: JobKeys,
    peer: str,
    lease: Callable[[], int] | None = None,
    ignored: Note = discard_note,
) -> str:
    """Wait until this peer is asked to leave. Returns the reason of the request.

    ``lease``: returns this peer's current lease. A request that is attached to another lease, or to none, was not made
    to this incarnation. ``ignored`` is called for every key that is not a request.
    """
    key = keys.leave(peer)
    async for item in store.watch(key):
        found = item.listing.items if isinstance(item, Reset) else (item.value,)
        for entry in found:
            # The watch covers a prefix: the watch for "p1" also receives requests to "p10".
            if entry is not None and entry.key == key:
                try:
                    by = read_object(entry.value)["by"]
                except (ValueError, KeyError):
                    by = None
                if not isinstance(by, str) or not is_text(by, MOST_REASON):
                    ignored(entry.key, entry.mod_revision, "it is not a request to leave")
                elif lease is not None and entry.lease != lease():
                    ignored(entry.key, entry.mod_revision, "it asks another incarnation")
                else:
                    return by
    return ""
