"""The announcements of checkpoints in the store: each names one checkpoint and its holders.

A checkpoint is announced only after all of it is on a disk.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Container
from dataclasses import dataclass, replace

from gossip_caffe.addresses import is_address_of, is_host
from gossip_caffe.checkpoint.manifest import Manifest
from gossip_caffe.json_records import read_record, to_object
from gossip_caffe.membership.etcd.store import Guard, ModifiedAt, Put, Store
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.observe.log.ignored import Note, discard_note
from gossip_caffe.plain import is_plain, shown
from gossip_caffe.system.unix_sockets import is_peer_socket

HOLDERS_ENOUGH = 32
"""This many living holders are enough to serve the joiners.

An announcement with a thousand holders would be read by a thousand peers; and if a thousand peers joined at once, each
would have to rewrite it after all the others.
"""

MOST_BYTES = 1 << 18
"""Limit of an announcement, in bytes. One with two thousand holders that have died has half of that."""
MOST_SAMPLES = 1 << 62
LAST_SECOND = 253402300799.0
"""The last second of a calendar with four-digit years, in seconds since 1970."""
_DIGEST = re.compile(r"[0-9a-f]{1,128}")


@dataclass(frozen=True, slots=True)
class Announcement:
    """One announced checkpoint. ``digest``: BLAKE3 of its manifest. ``holders``: peer → address.

    ``score``: the result of the consensus test nearest to the checkpoint, higher is better; None while there is none.
    ``scored_samples``: the job's progress at that test.
    """

    checkpoint: str
    digest: str
    progress_samples: int
    made_at: float
    holders: dict[str, str]
    score: float | None = None
    scored_samples: int = -1

    def to_json(self) -> bytes:
        """The announcement as it is stored."""
        return json.dumps(to_object(self)).encode()

    @classmethod
    def from_json(cls, value: bytes) -> Announcement:
        """Parse an announcement. Raises ValueError for any other value."""
        return _announcement(value)


@functools.lru_cache(maxsize=64)
def _announcement(value: bytes) -> Announcement:
    """Parse an announcement, with a cache: every peer reads all announcements often, and they rarely change."""
    if len(value) > MOST_BYTES:
        raise ValueError(f"an announcement of {len(value):,} bytes")
    read = read_record(Announcement, value)
    if why := _objection(read):
        raise ValueError(f"no Announcement: {why}")
    return read


def _objection(read: Announcement) -> str:
    """The reason why no peer can have written this announcement; "" when every field is valid."""
    if not is_plain(read.checkpoint) or not _DIGEST.fullmatch(read.digest):
        return f"{shown(read.checkpoint)} is no checkpoint's id, or {shown(read.digest)} no digest"
    if not 0 <= read.progress_samples <= MOST_SAMPLES or not -1 <= read.scored_samples <= MOST_SAMPLES:
        return "its samples are out of range"
    if not 0 <= read.made_at <= LAST_SECOND:
        return f"it was made at {read.made_at!r:.40}"
    if read.score is not None and not math.isfinite(read.score):
        return f"its score is {read.score}"
    for peer, address in read.holders.items():
        if not is_plain(peer) or not (
            is_address_of(address, peer) or is_host(address) or is_peer_socket(address)
        ):
            return f"a holder is {shown(peer)} at {shown(address)}"
    return ""


def checkpoint_id(progress_samples: int, maker: str) -> str:
    """A checkpoint's id. Ids sort by progress, and two makers never produce the same id."""
    return f"{progress_samples:014d}-{maker}"


async def announce(
    writer: FencedWriter,
    keys: JobKeys,
    manifest: Manifest,
    address: str,
    guards: tuple[Guard, ...] = (),
    holder: str = "",
) -> bool:
    """Announce a checkpoint that its maker, or another ``holder``, holds at ``address``.

    Returns False when one of ``guards`` (the maker's duty) failed.
    """
    announcement = Announcement(
        manifest.checkpoint,
        manifest.digest,
        manifest.progress_samples,
        manifest.made_at,
        {holder or manifest.maker: address},
    )
    put = Put(keys.checkpoint(manifest.checkpoint), announcement.to_json())
    return (await writer.transact(list(guards), [put])).succeeded


async def announced(store: Store, keys: JobKeys, ignored: Note = discard_note) -> list[Announcement]:
    """All announced checkpoints, newest first. ``ignored`` is called for every key that is no announcement."""
    listing = await store.list(keys.checkpoints)
    found = []
    for item in reversed(listing.items):
        try:
            announcement = Announcement.from_json(item.value)
        except ValueError as error:  # written by another program, or by a version that this one cannot read
            ignored(item.key, item.mod_revision, str(error))
            continue
        if item.key == keys.checkpoint(announcement.checkpoint):
            found.append(announcement)
        else:
            ignored(item.key, item.mod_revision, f"it announces {announcement.checkpoint}")
    return found


async def add_holder(
    store: Store,
    writer: FencedWriter,
    keys: JobKeys,
    checkpoint: str,
    peer: str,
    address: str,
    living: Container[str],
) -> None:
    """Add a peer to the holders of a checkpoint. Does nothing when the checkpoint is no longer announced.

    ``living``: the peers that can be asked. When HOLDERS_ENOUGH of them hold the checkpoint already, no holder is
    added.
    """

    def held(now: Announcement) -> Announcement:
        if sum(holder in living for holder in now.holders) >= HOLDERS_ENOUGH:
            return now
        return replace(now, holders={**now.holders, peer: address})

    await _change(store, writer, keys, checkpoint, held)


async def add_score(
    store: Store, writer: FencedWriter, keys: JobKeys, checkpoint: str, score: float, samples: int
) -> None:
    """Add the score of a test at ``samples``. A score from a test nearer to the checkpoint is kept instead."""

    def scored(now: Announcement) -> Announcement:
        before = abs(now.scored_samples - now.progress_samples)
        if now.score is not None and before <= abs(samples - now.progress_samples):
            return now
        return replace(now, score=score, scored_samples=samples)

    await _change(store, writer, keys, checkpoint, scored)


async def _change(
    store: Store,
    writer: FencedWriter,
    keys: JobKeys,
    checkpoint: str,
    changed: Callable[[Announcement], Announcement],
) -> None:
    while (item := await store.get(keys.checkpoint(checkpoint))) is not None:
        try:
            before = Announcement.from_json(item.value)
        except ValueError:
            return  # another writer replaced it
        if (after := changed(before)) == before:
            return
        put = Put(item.key, after.to_json())
        if (await writer.transact([ModifiedAt(item.key, item.mod_revision)], [put])).succeeded:
            return
