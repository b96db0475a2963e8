"""The state of one watch, and the check that the store still has the history that the watch has delivered.

A watch may resume at a revision only after this check. A store that was restored from a backup, or that lost writes
that it had acknowledged (docs/dependencies.md), assigns the same revisions to other writes. A watch that resumed there
would miss those writes and keep the lost ones for ever.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Protocol

from gossip_caffe.errors import StoreError, StoreRefused, StoreUnavailable
from gossip_caffe.membership.etcd.store import Changed, KeyValue, Listing, Reset, WatchItem
from gossip_caffe.wire import etcd_pb2 as pb

LOG = logging.getLogger(__name__)


class Ranges(Protocol):
    """The part of a connection that the check of a history needs."""

    async def call(
        self, method: str, request: pb.RangeRequest, reply: type[pb.RangeResponse]
    ) -> pb.RangeResponse:
        """Make one unary call, e.g. "KV/Range"."""
        ...


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all keys with ``prefix``: etcd's ``range_end``."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else b"\0"


def key_bytes(key: str) -> bytes:
    """A key in etcd's form."""
    return key.encode(errors="surrogateescape")


def key_text(key: bytes) -> str:
    """A key as text. Bytes that are not UTF-8 are preserved, so two different keys stay different."""
    return key.decode(errors="surrogateescape")


def key_value(item: pb.KeyValue) -> KeyValue:
    """A key and value of etcd as a ``KeyValue``."""
    return KeyValue(key_text(item.key), item.value, item.create_revision, item.mod_revision, item.lease)


def _mark(item: KeyValue) -> int:
    """A hash of one write. Keeping the writes themselves would need much memory for a watch of a thousand keys."""
    return hash((item.mod_revision, item.value))


@dataclass(slots=True, eq=False)
class WatchState:
    """One watch of a consumer. ``items``: the queue from which the consumer reads.

    A last item that is an error is raised to the consumer. A last item None means that the client was closed.
    """

    prefix: str
    items: asyncio.Queue[WatchItem | BaseException | None] = field(default_factory=asyncio.Queue)
    next_revision: int = 0  # 0: a listing is needed first
    stream: object = None  # the stream on which the server has this watch
    known: dict[str, int] = field(default_factory=dict)  # key → mark, of all keys delivered so far
    gone: str = ""  # the key of the last deletion

    def begin(self, listing: Listing) -> None:
        """Deliver a listing."""
        self.known, self.gone = {item.key: _mark(item) for item in listing.items}, ""
        self.next_revision = listing.revision + 1
        self.items.put_nowait(Reset(listing))

    def give(self, event: pb.Event) -> None:
        """Deliver a change, unless it was delivered before."""
        if event.kv.mod_revision < self.next_revision:
            return
        value = key_value(event.kv) if event.type == pb.Event.PUT else None
        key = key_text(event.kv.key)
        if value is None:
            self.known.pop(key, None)
            self.gone = key
        else:
            self.known[key] = _mark(value)
        self.items.put_nowait(Changed(key, value, event.kv.mod_revision))

    def given_to(self, revision: int) -> None:
        """Record that everything up to ``revision`` was delivered.

        This is separate from ``give``: the events of one revision may come in several replies.
        """
        self.next_revision = max(self.next_revision, revision + 1)

    def create_request(self) -> pb.WatchRequest:
        """The request that resumes this watch after the last delivered revision. The server numbers the watch."""
        prefix = key_bytes(self.prefix)
        return pb.WatchRequest(
            create_request=pb.WatchCreateRequest(
                key=prefix,
                range_end=prefix_end(prefix),
                start_revision=self.next_revision,
                fragment=True,  # the missed changes may exceed the limit of one reply
            )
        )

    async def happened(self, etcd: Ranges) -> bool:
        """True if the store, at the last delivered revision, has the keys that this watch delivered.

        The check costs one or two small replies: the number of keys, the newest key, and the absence of the last
        deleted key. It is not expected that a different history agrees in all three. Raises StoreUnavailable,
        StoreRefused.
        """
        prefix, revision = key_bytes(self.prefix), self.next_revision - 1
        newest_of_all = pb.RangeRequest(
            key=prefix,
            range_end=prefix_end(prefix),
            revision=revision,
            limit=1,
            sort_order=pb.RangeRequest.DESCEND,
            sort_target=pb.RangeRequest.MOD,
        )
        try:
            reply = await etcd.call("KV/Range", newest_of_all, pb.RangeResponse)
            newest = key_value(reply.kvs[0]) if reply.kvs else None
            happened = reply.count == len(self.known) and (
                newest is None or _mark(newest) == self.known.get(newest.key)
            )
            if happened and self.gone and self.gone not in self.known:
                deleted = pb.RangeRequest(key=key_bytes(self.gone), revision=revision)
                happened = not (await etcd.call("KV/Range", deleted, pb.RangeResponse)).kvs
        except (StoreUnavailable, StoreRefused):
            raise
        except StoreError as error:
            LOG.info("watch of %s cannot resume, and lists again: %s", self.prefix, error)
            return False  # that revision is compacted, or is in the future
        if not happened:
            LOG.warning("etcd lacks writes that the watch of %s delivered: listing again", self.prefix)
        return happened
