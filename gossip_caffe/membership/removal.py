"""Removal of keys that another writer left, each only while it is unchanged.

A key that was rewritten or removed meanwhile must not keep the other keys from being removed. Otherwise a writer that
rewrites one key again and again would protect all keys that are removed together with it.
"""

from __future__ import annotations

from collections.abc import Sequence

from gossip_caffe.membership.etcd.store import Delete, KeyValue, ModifiedAt
from gossip_caffe.membership.fence import FencedWriter

A_TRANSACTION = 60


async def removed(writer: FencedWriter, items: Sequence[KeyValue]) -> list[KeyValue]:
    """Remove the keys that are unchanged since ``items`` were read; returns the removed ones. Raises StoreError."""
    gone: list[KeyValue] = []
    pending = list(items)
    while pending:
        part, rest = pending[:A_TRANSACTION], pending[A_TRANSACTION:]
        result = await writer.transact(
            [ModifiedAt(item.key, item.mod_revision) for item in part], [Delete(item.key) for item in part]
        )
        if result.succeeded:
            gone += part
            pending = rest
            continue
        there = {(item.key, item.mod_revision) for item in result.found}
        same = [item for item in part if (item.key, item.mod_revision) in there]
        # All keys are unchanged, so another guard (the fence) refused the transaction.
        pending = rest if len(same) == len(part) else same + rest
    return gone
