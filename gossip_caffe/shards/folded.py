"""The record of the number of folded epochs: how one peer reads it, guards its writes with it, and puts it right.

Two keys hold the record, ``folded`` and ``folded_copy``. Each fold and each rollback writes both. A peer that missed a
fold learns of it from the copy if another writer has removed or overwritten the first key meanwhile. Without the copy
it would take the epoch for open, and train it again.
"""

from __future__ import annotations

import json
from typing import Any

from gossip_caffe.json_records import is_count, read_object
from gossip_caffe.membership.etcd.store import Absent, Guard, KeyValue, ModifiedAt, Operation, Put, Store
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.observe.log.ignored import Note, discard_note

NOT_OF_A_PEER = "the old value was not written by a peer"


class FoldedRecord:
    """The record as one peer knows it. ``epochs``: the epochs 0 … epochs-1 are folded, as last read.

    Methods raise LeaseLost when the peer may no longer write, and StoreUnavailable when the store cannot be reached.
    """

    def __init__(
        self,
        store: Store,
        writer: FencedWriter,
        keys: JobKeys,
        most_epochs: int,
        peer: str,
        put_right: Note = discard_note,
    ) -> None:
        """``most_epochs``: those of the job. ``put_right`` is called for a key that this peer corrected."""
        self.epochs = 0
        self._store = store
        self._writer = writer
        self._keys = keys
        self._most = most_epochs
        self._peer = peer
        self._told = put_right
        self._revision = 0
        self._copy_revision = 0
        self._back = 0
        """The store's revision at the job's last rollback to a checkpoint; 0 if there was none."""
        self._knows = False
        """True once the number of folded epochs has been read."""

    @property
    def version(self) -> tuple[int, int]:
        """The number and the revision of the record; equal as long as it does not change."""
        return self.epochs, self._revision

    def recall(self, before: FoldedRecord) -> None:
        """Take over the knowledge of this peer's earlier record, if there is any.

        Without it, a peer that lost its fence would believe a deleted record, and so that no chunk is settled.
        """
        if before._knows:
            self.epochs, self._revision, self._copy_revision = (
                before.epochs,
                before._revision,
                before._copy_revision,
            )
            self._back, self._knows = before._back, True

    async def refresh(self) -> int:
        """Read the record; returns the number of folded epochs. A peer that knows better puts a wrong record right."""
        listed = {item.key: item for item in (await self._store.list(self._keys.folded)).items}
        item, copy = listed.get(self._keys.folded), listed.get(self._keys.folded_copy)
        believed = self._read(item) if item is not None else None
        self._copy_revision = copy.mod_revision if copy is not None else 0
        if believed is not None and item is not None and self._is_believed(believed, item):
            self._take(believed, item.mod_revision)
            return self.epochs
        twin = self._read(copy) if copy is not None else None
        if twin is not None and self._is_later(twin):
            self._take(twin, self._revision)
            await self._put_right(item)
        elif item is None and not self._revision:
            self._knows = True  # no epoch has been folded
        elif self._knows:
            await self._put_right(item)
        else:
            self._revision = item.mod_revision if item is not None else 0
        return self.epochs

    def guards(self) -> list[Guard]:
        """The guards that refuse a write to an epoch that another peer has folded meanwhile."""
        if self._revision:
            return [ModifiedAt(self._keys.folded, self._revision)]
        copy = self._keys.folded_copy
        seen = self._copy_revision
        return [Absent(self._keys.folded), ModifiedAt(copy, seen) if seen else Absent(copy)]

    def writes(self, epochs: int) -> list[Operation]:
        """The operations that record ``epochs`` folded epochs."""
        record: dict[str, Any] = {"epochs": epochs, "by": self._peer}
        return writes(self._keys, record | {"back": self._back} if self._back else record)

    def _take(self, record: tuple[int, int], revision: int) -> None:
        self.epochs, self._back = record
        self._revision, self._knows = revision, True

    def _read(self, item: KeyValue) -> tuple[int, int] | None:
        """The number of folded epochs and ``back`` in a value; None if no peer can have written it.

        The record keeps the revision of the last rollback for good: a peer that missed the rollback may first read the
        record after others have folded again.
        """
        try:
            record = read_object(item.value)
            epochs, back = record["epochs"], record.get("back", 0)
        except (ValueError, KeyError):
            return None
        if not (is_count(epochs) and is_count(back)) or epochs > self._most or back > item.mod_revision:
            return None
        if "by" not in record and back <= self._back and self._knows and item.mod_revision != self._revision:
            return None  # only the rollback itself has no author, and this one is known
        return epochs, back

    def _is_believed(self, record: tuple[int, int], item: KeyValue) -> bool:
        return not self._knows or item.mod_revision == self._revision or self._is_later(record)

    def _is_later(self, record: tuple[int, int]) -> bool:
        """True if peers can have come from the known record to this one.

        Peers fold one epoch after the other. The number decreases only in a rollback to a checkpoint.
        """
        epochs, back = record
        return not self._knows or back > self._back or (back == self._back and epochs >= self.epochs)

    async def _put_right(self, item: KeyValue | None) -> None:
        key = self._keys.folded
        guard: Guard = Absent(key) if item is None else ModifiedAt(key, item.mod_revision)
        result = await self._writer.transact([guard], self.writes(self.epochs))
        if result.succeeded:
            self._revision = self._copy_revision = result.revision
            self._told(key, item.mod_revision if item is not None else 0, NOT_OF_A_PEER)


def writes(keys: JobKeys, record: dict[str, Any]) -> list[Operation]:
    """The operations that write a record to both keys."""
    value = json.dumps(record).encode()
    return [Put(keys.folded, value), Put(keys.folded_copy, value)]
