"""A journal in the store: numbered entries that are only appended, one transaction an append, and snapshots of it.

The head holds the number of entries, and every append requires and rewrites it, so that no number is used twice and an
append whose reply is lost is applied once. Entries are in blocks, so that a reader lists few keys. A snapshot replaces
the entries before it; those since the snapshot before stay for readers that are behind.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gossip_caffe.clock import Clock
from gossip_caffe.errors import Ambiguous, LeaseLost, StoreError
from gossip_caffe.json_records import is_count, read_object, read_record
from gossip_caffe.membership.etcd.store import (
    Absent,
    DeletePrefix,
    Guard,
    ModifiedAt,
    Operation,
    Put,
    Store,
)
from gossip_caffe.plain import is_plain

BLOCK = 64
PART_BYTES = 1 << 19
"""The size of a part of a snapshot: etcd takes requests of at most 1.5 MB."""
MOST_SNAPSHOT_BYTES = 1 << 28
_AGAIN_S = 0.2
_TRIES = 5
_DELETES = 100

Entry = dict[str, Any]


class JournalTrimmed(StoreError):
    """Entries that a reader lacks were replaced by a snapshot: it begins again from the snapshot."""


@dataclass(frozen=True, slots=True)
class _Head:
    """The number of entries, and the nonce and revision of the newest append. ``revision`` 0: there is no head yet."""

    count: int = 0
    nonce: str = ""
    revision: int = 0


class Journal:
    """One client of a journal. ``nonces`` returns text that no other call returns.

    ``guards``: more guards of each append; when one fails, the writer may write no more, and LeaseLost is raised.
    """

    def __init__(self, store: Store, prefix: str, clock: Clock, nonces: Callable[[], str]) -> None:
        self._store = store
        self._prefix = prefix
        self._clock = clock
        self._nonces = nonces
        self._head: _Head | None = None
        self._fresh = False
        self._own: dict[int, Entry] = {}
        self._lock = asyncio.Lock()
        self.guards: tuple[Guard, ...] = ()

    async def append(self, entries: Sequence[Entry]) -> None:
        """Append entries, all or none. Raises LeaseLost, or StoreError when that fails now."""
        async with self._lock:
            nonce = self._nonces()
            head = self._head or await self._read_head()
            self._head = None
            while True:
                written = await self._attempt(head, entries, nonce)
                now = await self._read_head() if written is None or not written.revision else written
                if now.nonce == nonce:
                    self._head, self._fresh = now, True
                    self._own |= {head.count + place: entry for place, entry in enumerate(entries)}
                    return
                if now.revision != head.revision:
                    if await self._is_there(head.count, nonce):
                        return  # the reply was lost, and other workers have appended since
                    head = now  # an attempt that required the old head can never be applied
                elif written is not None:
                    raise LeaseLost(
                        "the journal of the search takes no entry of this worker", remedy="register again"
                    )
                else:
                    await self._clock.sleep(_AGAIN_S)

    async def read(self, first: int) -> list[Entry]:
        """The entries from number ``first`` on; right after an append of this client those up to it.

        Raises JournalTrimmed when some of them are gone, or StoreError.
        """
        async with self._lock:
            if not (self._fresh and self._head is not None):
                self._head = await self._read_head()
            self._fresh = False
            count = self._head.count
            wanted = range(first, count)
            found = {number: self._own[number] for number in wanted if number in self._own}
            self._own.clear()
            if len(found) < len(wanted):
                found |= await self._listed(first, count)
            if missing := [number for number in wanted if number not in found]:
                raise JournalTrimmed(
                    f"entry {missing[0]} of the journal is gone", remedy="begin from the snapshot"
                )
            return [found[number] for number in wanted]

    async def save(self, state: Entry, count: int) -> None:
        """Keep a snapshot of the first ``count`` entries, and remove those before the snapshot before."""
        packed = zlib.compress(json.dumps(state, separators=(",", ":")).encode())
        item = await self._store.get(self._snapshot_key)
        before = _snapshot_of(item.value) if item is not None else None
        if before is not None and before.count >= count:
            return
        name = self._nonces()
        parts = [packed[at : at + PART_BYTES] for at in range(0, len(packed), PART_BYTES)]
        for number, part in enumerate(parts):
            await self._store.transact([], [Put(self._part_key(name, number), part)])
        trimmed = before.count // BLOCK if before is not None else 0
        described = json.dumps(
            {"name": name, "parts": len(parts), "count": count, "trimmed": trimmed}, separators=(",", ":")
        )
        guard: Guard = (
            ModifiedAt(item.key, item.mod_revision) if item is not None else Absent(self._snapshot_key)
        )
        if not (await self._store.transact([guard], [Put(self._snapshot_key, described.encode())])).succeeded:
            await self._store.transact([], [DeletePrefix(self._part_key(name))])
            return
        gone: list[Operation] = [DeletePrefix(self._part_key(before.name))] if before is not None else []
        first = before.trimmed if before is not None else 0
        gone += [DeletePrefix(self._block_key(block)) for block in range(first, trimmed)]
        for at in range(0, len(gone), _DELETES):
            await self._store.transact([], gone[at : at + _DELETES])

    async def load(self) -> tuple[Entry, int] | None:
        """The newest snapshot, and the number of entries that it replaces; None when there is none, or none whole."""
        for _ in range(_TRIES):
            item = await self._store.get(self._snapshot_key)
            described = _snapshot_of(item.value) if item is not None else None
            if described is None:
                return None
            listed = await self._store.list(self._part_key(described.name))
            if len(listed.items) == described.parts:
                return _unpacked(b"".join(part.value for part in listed.items)), described.count
        return None  # it is replaced again and again, or another program removed a part

    async def _attempt(self, head: _Head, entries: Sequence[Entry], nonce: str) -> _Head | None:
        """Append after ``head``. Returns the new head; one of revision 0 if a guard failed; None if that is unknown."""
        count = head.count + len(entries)
        content = json.dumps({"count": count, "nonce": nonce}, separators=(",", ":")).encode()
        operations: list[Operation] = [Put(self._head_key, content)]
        operations += [
            Put(self._entry_key(head.count + place), _entry_value(entry, nonce))
            for place, entry in enumerate(entries)
        ]
        guard: Guard = ModifiedAt(self._head_key, head.revision) if head.revision else Absent(self._head_key)
        try:
            result = await self._store.transact([guard, *self.guards], operations)
        except Ambiguous:
            return None
        return _Head(count, nonce, result.revision) if result.succeeded else _Head()

    async def _is_there(self, number: int, nonce: str) -> bool:
        item = await self._store.get(self._entry_key(number))
        return item is not None and _nonce_of(item.value) == nonce

    async def _read_head(self) -> _Head:
        item = await self._store.get(self._head_key)
        if item is None:
            return _Head()
        try:
            record = read_object(item.value)
            if not is_count(record["count"]) or not isinstance(record["nonce"], str):
                raise ValueError("no head")
        except (ValueError, KeyError):
            raise StoreError(
                f"etcd holds under {self._head_key} a value that gossip-caffe did not write",
                remedy="find the program that wrote it, and restore the old value",
            ) from None
        return _Head(record["count"], record["nonce"], item.mod_revision)

    async def _listed(self, first: int, count: int) -> dict[int, Entry]:
        found: dict[int, Entry] = {}
        for block in range(first // BLOCK, (count - 1) // BLOCK + 1):
            for item in (await self._store.list(self._block_key(block))).items:
                number = item.key.rpartition("/")[2]
                if number.isdecimal():
                    found[int(number)] = _entry_of(item.value)
        return found

    @property
    def _head_key(self) -> str:
        return f"{self._prefix}head"

    @property
    def _snapshot_key(self) -> str:
        return f"{self._prefix}snapshot"

    def _part_key(self, name: str, number: int | None = None) -> str:
        return f"{self._prefix}parts/{name}/" + (f"{number:06d}" if number is not None else "")

    def _block_key(self, block: int) -> str:
        return f"{self._prefix}log/{block:08d}/"

    def _entry_key(self, number: int) -> str:
        return f"{self._block_key(number // BLOCK)}{number:010d}"


def _entry_value(entry: Entry, nonce: str) -> bytes:
    return json.dumps({"by": nonce, "entry": entry}, separators=(",", ":")).encode()


def _nonce_of(value: bytes) -> str:
    try:
        return str(read_object(value).get("by", ""))
    except ValueError:
        return ""


def _entry_of(value: bytes) -> Entry:
    """The entry; an empty one for a value that no worker has written."""
    try:
        entry = read_object(value).get("entry")
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The description of a snapshot. ``trimmed``: the blocks before this one are removed."""

    name: str
    parts: int
    count: int
    trimmed: int


def _snapshot_of(value: bytes) -> _Snapshot | None:
    """The description; None for a value that no worker has written."""
    try:
        found = read_record(_Snapshot, value)
    except ValueError:
        return None
    return found if is_plain(found.name) and min(found.parts, found.count, found.trimmed) >= 0 else None


def _unpacked(packed: bytes) -> Entry:
    """The state in a snapshot. Raises StoreError for one that no worker has written."""
    try:
        unpacking = zlib.decompressobj()
        content = unpacking.decompress(packed, MOST_SNAPSHOT_BYTES)
        if not unpacking.eof:
            raise ValueError("it is too large, or torn")
        return read_object(content)
    except (ValueError, zlib.error) as error:
        raise StoreError(
            f"the snapshot of the journal in etcd cannot be read ({error})",
            remedy="find the program that wrote it, and restore the old value",
        ) from None
