"""The members of a job: the record that each peer keeps under its lease, and each peer's view of all records."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from gossip_caffe.addresses import is_address, is_address_of
from gossip_caffe.errors import LeaseLost, StoreError
from gossip_caffe.json_records import read_record, to_object
from gossip_caffe.membership.etcd.store import KeyValue, Put, Reset, Store
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys, is_name
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.observe.log.ignored import Note, discard_note
from gossip_caffe.plain import is_text, shown
from gossip_caffe.system.unix_sockets import is_peer_socket

MOST_BYTES = 1 << 13
"""Limit of a record, in bytes. A record with long names has less than a quarter of that."""
MOST_TEXT = 255
_FEW = 64
MOST_WEIGHT = 1e12
"""Limit of a published throughput, in samples per second. No peer reaches a thousandth of that."""


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """The facts about one peer that other peers need. It is rewritten only when a fact changes: every peer watches it.

    ``address`` is "host:port" of the peer's gRPC server, "name@host:port" if it has a certificate. ``insecure``: it
    listens for other machines without one, because its user wants that. ``weight`` is the peer's throughput in samples
    per second, 0.0 until it is measured. ``fingerprint`` is that of its weight layout, empty until its net is built.
    ``zone`` is the peer's location, empty when the user gave none. ``device`` is "cpu" or "gpu:0"; for a GPU also its
    name and memory, where they are known. ``metrics`` is the address of its metrics, "host:port" or "unix:PATH"; empty:
    it serves none. ``mpi`` is its rank in a launch of MPI, after the launch's id ("3f…9c/2"); empty: it has none.
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
    metrics: str = ""
    mpi: str = ""
    insecure: bool = False

    def to_json(self) -> bytes:
        """The record as it is stored."""
        return json.dumps(to_object(self), separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, value: bytes) -> PeerRecord:
        """Parse a stored record. Fields of a newer version are ignored.

        Raises ValueError when the value is no record.
        """
        return _record(value)


@functools.lru_cache(maxsize=2048)
def _record(value: bytes) -> PeerRecord:
    """Parse a record, with a cache: peers that share a process all read the same records."""
    if len(value) > MOST_BYTES:
        raise ValueError(f"a record of {len(value):,} bytes")
    record = read_record(PeerRecord, value)
    if why := _objection(record):
        raise ValueError(f"no PeerRecord: {why}")
    return record


def _objection(record: PeerRecord) -> str:
    """The reason why no peer can have written this record; "" when every field is valid."""
    if not is_name(record.peer):
        return f"{shown(record.peer)} is no peer's name"
    if why := _wrong_place(record):
        return why
    if not 0 <= record.weight <= MOST_WEIGHT:  # refuses NaN, too
        return f"a weight of {record.weight}"
    texts = (record.host, record.state, record.device, record.fingerprint, record.version, record.zone)
    more = (record.incarnation, record.device_name, record.mpi)
    if not all(is_text(text, MOST_TEXT) for text in texts + more):
        return "a text that is too long, or not for one line"
    if record.pid < 0 or record.device_memory_bytes < 0:
        return "a number below 0"
    return ""


def _wrong_place(record: PeerRecord) -> str:
    if not (is_address_of(record.address, record.peer) or is_peer_socket(record.address)):
        return f"{shown(record.address)} is no HOST:PORT of {record.peer}"
    if record.metrics and not (is_address(record.metrics) or is_peer_socket(record.metrics)):
        return f"{shown(record.metrics)} is no HOST:PORT"
    return ""


class Registration:
    """This peer's own record, attached to its lease."""

    def __init__(
        self, writer: FencedWriter, session: LeaseSession, keys: JobKeys, record: PeerRecord
    ) -> None:
        self._writer = writer
        self._session = session
        self._keys = keys
        self.record = replace(record, incarnation=f"{session.id:x}")
        self._lock = asyncio.Lock()
        self._written = b""

    async def publish(self, **changes: object) -> None:
        """Write the record with some fields changed. Raises LeaseLost or StoreUnavailable."""
        async with self._lock:
            self.record = replace(self.record, **changes)  # type: ignore[arg-type]
            await self._put()

    async def put_right(self, store: Store) -> int | None:
        """Write the record again if another writer changed or removed it.

        Returns the revision of the record that was overwritten, 0 if the record was missing, None if it was unchanged.
        Raises StoreError.
        """
        async with self._lock:
            item = await store.get(self._keys.peer(self.record.peer))
            if not self._session.owns() or not self._written:
                return None
            ours = {self._written, self.record.to_json()}
            if item is not None and item.lease == self._session.id and item.value in ours:
                return None
            await self._put()
            return 0 if item is None else item.mod_revision

    async def _put(self) -> None:
        put = Put(self._keys.peer(self.record.peer), self.record.to_json(), self._session.id)
        result = await self._writer.transact([], [put])
        if not result.succeeded:
            raise LeaseLost("the store no longer knows our lease", remedy="register again")
        self._written = put.value


class Subscription:
    """One listener of a view, until ``close``."""

    def __init__(self, listeners: dict[Subscription, Listener]) -> None:
        self._listeners = listeners

    def close(self) -> None:
        """Remove the listener. A second call does nothing."""
        self._listeners.pop(self, None)


Listener = Callable[[PeerRecord | None, PeerRecord | None], None]


class MembersView:
    """All records of a job, kept up to date by a watch. While the store cannot be reached, the last known records.

    A listener is called with a peer's old and new record; None stands for no record. With ``ignored``, a record counts
    only if it is attached to the lease that it names, and ``ignored`` is called for every other key.
    """

    def __init__(self, store: Store, keys: JobKeys, ignored: Note | None = None) -> None:
        self._store = store
        self._keys = keys
        self._ignored = ignored
        self.members: dict[str, PeerRecord] = {}
        self.known = asyncio.Event()
        self._listeners: dict[Subscription, Listener] = {}
        self._in_state: dict[tuple[str, ...], dict[str, PeerRecord]] = {}
        self._had_by: dict[str, str] = {}
        """Lease → the first member under it: two peers never share a lease."""
        self._changed: dict[str, None] = {}

    def listen(self, listener: Listener) -> Subscription:
        """Call ``listener`` at every change from now on, until the subscription is closed."""
        subscription = Subscription(self._listeners)
        self._listeners[subscription] = listener
        return subscription

    async def follow(self) -> None:
        """Keep the view up to date; never returns.

        Raises StoreError when the watch ends: later changes would go unseen.
        """
        prefix = self._keys.peers
        async for item in self._store.watch(prefix):
            if isinstance(item, Reset):
                before, self.members = self.members, {}
                self._in_state.clear()
                self._changed.clear()
                for entry in sorted(item.listing.items, key=lambda entry: entry.create_revision):
                    self._note(entry.key.removeprefix(prefix), entry)
                self.known.set()
                for peer in {**before, **self.members}:
                    self._tell(before.get(peer), self.members.get(peer))
            else:
                peer = item.key.removeprefix(prefix)
                was = self.members.pop(peer, None)
                if item.value is not None:
                    self._note(peer, item.value)
                self._changed[peer] = self._changed.pop(peer, None)
                self._tell(was, self.members.get(peer))
        raise StoreError("the watch of the job's members ended", remedy="start the peer again")

    def _tell(self, was: PeerRecord | None, now: PeerRecord | None) -> None:
        if was is not now and was != now:  # a record that was rewritten unchanged is mostly the same object
            for listener in tuple(self._listeners.values()):
                listener(was, now)

    def in_state(self, *states: str) -> Mapping[str, PeerRecord]:
        """The members that are in one of the given states now, by id.

        The mapping is the same object until one changes.
        """
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
        """The result of ``in_state`` after the pending changes, in the order of ``members``."""
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

    def _note(self, peer: str, item: KeyValue) -> None:
        try:
            record = member_of(item, peer, leased=self._ignored is not None)
            if self._ignored is not None:
                self._check_alone(record)
        except ValueError as error:
            # The key is of another writer, or of a version that this peer cannot read: it is no partner.
            self.members.pop(peer, None)
            (self._ignored or discard_note)(item.key, item.mod_revision, str(error))
        else:
            self.members[peer] = record

    def _check_alone(self, record: PeerRecord) -> None:
        """Raises ValueError when the record's lease belongs to another member."""
        first = self._had_by.setdefault(record.incarnation, record.peer)
        other = self.members.get(first)
        if first != record.peer and other is not None and other.incarnation == record.incarnation:
            raise ValueError(f"it is attached to the lease of {shown(first)}")
        self._had_by[record.incarnation] = record.peer
        if len(self._had_by) > 2 * len(self.members) + _FEW:
            self._had_by = {entry.incarnation: entry.peer for entry in (*self.members.values(), record)}


def member_of(item: KeyValue, peer: str, *, leased: bool = True) -> PeerRecord:
    """Parse the record of ``peer``. Raises ValueError when the value is no record, or is another peer's.

    ``leased``: also require that the key is attached to the lease that the record names, as every living peer's record
    is.
    """
    record = PeerRecord.from_json(item.value)
    if record.peer != peer:
        raise ValueError(f"it is the record of {shown(record.peer)}")
    if leased and (not item.lease or record.incarnation != f"{item.lease:x}"):
        raise ValueError("it is not attached to the lease that it names")
    return record


async def list_members(store: Store, keys: JobKeys, ignored: Note = discard_note) -> list[PeerRecord]:
    """All members that the store has now, sorted by id.

    ``ignored`` is called for every key that is no member's record.
    """
    found: dict[str, PeerRecord] = {}
    for item in sorted((await store.list(keys.peers)).items, key=lambda item: item.create_revision):
        try:
            record = member_of(item, item.key.removeprefix(keys.peers))
            if (first := found.setdefault(record.incarnation, record)) is not record:
                raise ValueError(f"it is attached to the lease of {shown(first.peer)}")
        except ValueError as error:
            ignored(item.key, item.mod_revision, str(error))
    return sorted(found.values(), key=lambda record: record.peer)
