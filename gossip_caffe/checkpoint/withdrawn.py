"""The record of withdrawn announcements and the peers that withdrew them.

It is written in the same fenced transaction that removes the announcements. If an announcement is gone and not in this
record, no peer of the job withdrew it: another writer removed it, or the store was restored from an older backup.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gossip_caffe.json_records import read_object
from gossip_caffe.membership.etcd.store import Absent, Delete, Guard, ModifiedAt, Put, Store
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.observe.log.ignored import Note, discard_note
from gossip_caffe.plain import is_plain

A_TRANSACTION = 64
REMEMBERED = 512
"""The number of recent withdrawals in the record. A peer that reads it more rarely keeps more copies than needed."""
MOST_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Checkpoint → the peer that withdrew it, at a ``revision`` of the store; 0: there was no such key."""

    by: Mapping[str, str] = field(default_factory=dict)
    revision: int = 0


async def withdrawn(store: Store, keys: JobKeys, ignored: Note = discard_note) -> Withdrawn:
    """Read the record. ``ignored`` is called for a value that is no such record, which then counts as an empty one."""
    item = await store.get(keys.withdrawn)
    if item is None:
        return Withdrawn()
    try:
        if len(item.value) > MOST_BYTES:
            raise ValueError(f"a record of {len(item.value):,} bytes")
        by = read_object(item.value)["checkpoints"]
        if not isinstance(by, dict) or not all(
            is_plain(name) and isinstance(who, str) and is_plain(who) for name, who in by.items()
        ):
            raise ValueError("it is no record of withdrawn checkpoints and their peers")
    except (ValueError, KeyError) as error:
        ignored(item.key, item.mod_revision, str(error))
        return Withdrawn({}, item.mod_revision)
    return Withdrawn(by, item.mod_revision)


async def withdraw(
    store: Store,
    writer: FencedWriter,
    keys: JobKeys,
    peer: str,
    checkpoints: Sequence[str],
    guards: Iterable[Guard],
) -> bool:
    """Withdraw announcements in the given order, and record ``peer`` as the one that did.

    Returns False when a guard fails.
    """
    required = tuple(guards)
    for first in range(0, len(checkpoints), A_TRANSACTION):
        part = checkpoints[first : first + A_TRANSACTION]
        while True:
            before = await withdrawn(store, keys)
            unchanged = (
                ModifiedAt(keys.withdrawn, before.revision) if before.revision else Absent(keys.withdrawn)
            )
            rest = {name: who for name, who in before.by.items() if name not in part}
            by = {**rest, **dict.fromkeys(part, peer)}
            named = dict(list(by.items())[-REMEMBERED:])
            record = Put(keys.withdrawn, json.dumps({"checkpoints": named}).encode())
            deletes = [Delete(keys.checkpoint(checkpoint)) for checkpoint in part]
            if (await writer.transact([unchanged, *required], [record, *deletes])).succeeded:
                break
            if (await withdrawn(store, keys)).revision == before.revision:
                return False
    return True
