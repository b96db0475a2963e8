"""Who lives: the record that each peer keeps under its lease, and the view that every peer has of all records."""

from __future__ import annotations

import asyncio
import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from gossip_caffe.errors import LeaseLost
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.membership.store import Put, Reset, Store
from gossip_caffe.stored import read_record, to_object


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """What others need to know of a peer. Rewritten only when one of these changes: every peer watches it.

    ``address`` is "host:port" of its gRPC server; ``weight`` the samples a second that it trains, 0.0 until that is
    measured; ``fingerprint`` that of its weight layout, empty until its net stands; ``zone`` where it runs, empty when
    it was told nothing. ``device``: "cpu" or "gpu:0"; of a card also its name and memory, where they are known.
    """

    peer: str
    incarnation: str
    address: str
    host: str
    pid: int
    state: str
    device: str = "cpu"
    fingerprint: str = ""
    weight: float = 0.0
    version: str = ""
    zone: str = ""
    device_name: str = ""
    device_memory_bytes: int = 0

    def to_json(self) -> bytes:
        """The record as it stands in the store."""
        return json.dumps(to_object(self), separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, value: bytes) -> PeerRecord:
        """Read a record; fields of a newer version are left out. Raises ValueError when it is none."""
        return _record(value)


@functools.lru_cache(maxsize=2048)
def _record(value: bytes) -> PeerRecord:
    """Remembered: where many peers share a process each of them reads what all the others wrote."""
    record = read_record(PeerRecord, value)
    if not 0 <= record.weight < math.inf:
        raise ValueError(f"no PeerRecord: a weight of {record.weight}")
    return record


class Registration:
    """This peer's own record, under its lease."""

    def __init__(
        self, writer: FencedWriter, session: LeaseSession, keys: JobKeys, record: PeerRecord
    ) -> None:
        self._writer = writer
        self._session = session
        self._keys = keys
        self.record = replace(record, incarnation=f"{session.id:x}")

    async def publish(self, **changes: object) -> None:
        """Write the record, with changed fields. Raises LeaseLost or StoreUnavailable."""
        self.record = replace(self.record, **changes)  # type: ignore[arg-type]
        put = Put(self._keys.peer(self.record.peer), self.record.to_json(), self._session.id)
        result = await self._writer.transact([], [put])
        if not result.succeeded:
            raise LeaseLost("the store does not know our lease any more", remedy="register again")


class MembersView:
    """All records of a job, kept up to date by a watch; the last known ones while the store is away.

    ``on_change`` is called with each record as it was and as it is, None where there is none.
    """

    def __init__(self, store: Store, keys: JobKeys) -> None:
        self._store = store
        self._keys = keys
        self.members: dict[str, PeerRecord] = {}
        self.known = asyncio.Event()
        self.on_change: list[Callable[[PeerRecord | None, PeerRecord | None], None]] = []
        self._in_state: dict[tuple[str, ...], dict[str, PeerRecord]] = {}
        self._changed: dict[str, None] = {}

    async def follow(self) -> None:
        """Keep the view up to date; returns when the store is closed."""
        prefix = self._keys.peers
        async for item in self._store.watch(prefix):
            if isinstance(item, Reset):
                before, self.members = self.members, {}
                self._in_state.clear()
                self._changed.clear()
                for entry in item.listing.items:
                    self._note(entry.key.removeprefix(prefix), entry.value)
                self.known.set()
                for peer in {**before, **self.members}:
                    self._tell(before.get(peer), self.members.get(peer))
            else:
                peer = item.key.removeprefix(prefix)
                was = self.members.pop(peer, None)
                if item.value is not None:
                    self._note(peer, item.value.value)
                self._changed[peer] = self._changed.pop(peer, None)
                self._tell(was, self.members.get(peer))

    def _tell(self, was: PeerRecord | None, now: PeerRecord | None) -> None:
        if was is not now and was != now:  # a record that was written again is mostly the same object
            for callback in self.on_change:
                callback(was, now)

    def in_state(self, *states: str) -> Mapping[str, PeerRecord]:
        """The members that are in one of the given states, by id: as of now, and the same object until one changes."""
        if self._changed:
            self._in_state = {
                wanted: self._brought_up(wanted, known) for wanted, known in self._in_state.items()
            }
            self._changed.clear()
        if (found := self._in_state.get(states)) is None:
            found = {peer: record for peer, record in self.members.items() if record.state in states}
            self._in_state[states] = found
        return found

    def _brought_up(self, states: tuple[str, ...], known: dict[str, PeerRecord]) -> dict[str, PeerRecord]:
        """What ``in_state`` says after the changes, in the order in which ``members`` has them."""
        now = {peer: self.members.get(peer) for peer in self._changed}
        found = {
            peer: record for peer, record in now.items() if record is not None and record.state in states
        }
        if not found and known.keys().isdisjoint(now):
            return known
        new = dict(known)
        for peer in now:
            new.pop(peer, None)
        return new | found

    def _note(self, peer: str, value: bytes) -> None:
        try:
            self.members[peer] = PeerRecord.from_json(value)
        except ValueError:
            # Somebody else's key, or a version that we cannot read: not a partner.
            self.members.pop(peer, None)
