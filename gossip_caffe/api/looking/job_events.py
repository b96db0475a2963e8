"""The changes of a job that etcd shows: its members, checkpoints, tests and end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from gossip_caffe.api.values.views import JobEvent
from gossip_caffe.background import within
from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.checkpoint.ending import read_end
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.membership.etcd.store import KeyValue, Reset, Store
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import member_of
from gossip_caffe.observe.log.ignored import Note
from gossip_caffe.observe.log.tested import ConsensusTest


async def events_of(store: Store, spec: JobSpec, ignored: Note) -> AsyncGenerator[JobEvent, None]:
    """Yield the present state as events, then each change; ends with "finished". Raises StoreError."""
    keys = JobKeys(spec.name)
    found: asyncio.Queue[JobEvent] = asyncio.Queue()
    reader = _Reader(store, spec, keys, found, ignored)
    watches = [reader.follow(prefix) for prefix in (keys.peers, keys.checkpoints, keys.tested, keys.finished)]
    async with within(*watches) as following:
        while True:
            async with within(found.get()) as (getting,):
                await asyncio.wait([getting, *following], return_when=asyncio.FIRST_COMPLETED)
                for ended in following:
                    if ended.done():
                        ended.result()  # a watch ends by an error only, or by the end of the connection
                if not getting.done():
                    return
                event = getting.result()
            yield event
            if event.kind == "finished":
                return


class _Reader:
    def __init__(
        self, store: Store, spec: JobSpec, keys: JobKeys, found: asyncio.Queue[JobEvent], ignored: Note
    ) -> None:
        self._store = store
        self._spec = spec
        self._keys = keys
        self._found = found
        self._ignored = ignored
        self._states: dict[str, str] = {}
        self._known: set[str] = set()

    async def follow(self, prefix: str) -> None:
        """Turn the changes under a prefix into events."""
        async for item in self._store.watch(prefix):
            if isinstance(item, Reset):
                there = {entry.key for entry in item.listing.items}
                if prefix == self._keys.peers:
                    for peer in [peer for peer in self._states if self._keys.peer(peer) not in there]:
                        self._member(peer, "")
                for entry in item.listing.items:
                    await self._noted(entry.key, entry)
            else:
                await self._noted(item.key, item.value)

    async def _noted(self, key: str, entry: KeyValue | None) -> None:
        keys = self._keys
        try:
            if key.startswith(keys.peers):
                peer = key.removeprefix(keys.peers)
                self._member(peer, member_of(entry, peer).state if entry is not None else "")
            elif entry is None:
                return
            elif key.startswith(keys.checkpoints):
                name = Announcement.from_json(entry.value).checkpoint
                if name not in self._known:
                    self._known.add(name)
                    self._found.put_nowait(JobEvent("checkpoint", name))
            elif key == keys.tested:
                test = ConsensusTest.from_json(entry.value)
                self._found.put_nowait(JobEvent("tested", test.peer, test=test))
            elif key == keys.finished:
                end = await read_end(self._store, keys, self._spec, self._ignored)
                if end is not None and end.believed:
                    self._found.put_nowait(JobEvent("finished", end.checkpoint))
        except ValueError as error:
            self._ignored(key, entry.mod_revision if entry is not None else 0, str(error))

    def _member(self, peer: str, state: str) -> None:
        before = self._states.pop(peer, "")
        if state:
            self._states[peer] = state
        if before != state:
            self._found.put_nowait(JobEvent("peer", peer, before, state))
