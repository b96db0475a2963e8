"""The account as anyone may read it from the store: who owns what, who has done what, and what is left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.store import KeyValue, Store
from gossip_caffe.shards.epochs import Epochs
from gossip_caffe.stored import needed, read_object


@dataclass(frozen=True, slots=True)
class EpochOverview:
    """One open epoch: its chunks by state, and by peer in ascending order."""

    epoch: int
    chunks: int
    owned: Mapping[str, tuple[int, ...]]
    done: Mapping[str, tuple[int, ...]]

    @property
    def owned_chunks(self) -> int:
        """How many are being trained now."""
        return sum(map(len, self.owned.values()))

    @property
    def done_chunks(self) -> int:
        """How many are done."""
        return sum(map(len, self.done.values()))

    @property
    def left_chunks(self) -> int:
        """How many are neither."""
        return self.chunks - self.owned_chunks - self.done_chunks

    @property
    def peers(self) -> tuple[str, ...]:
        """Everybody who owns or has done any of it."""
        return tuple(sorted({*self.owned, *self.done}))


@dataclass(frozen=True, slots=True)
class Overview:
    """A job's whole account at one moment. Epochs 0 … ``folded``-1 are finished."""

    epochs: int
    folded: int
    open: tuple[EpochOverview, ...]

    @property
    def finished(self) -> bool:
        """Every chunk of the budget is done."""
        return self.folded >= self.epochs


async def read_overview(store: Store, keys: JobKeys, epochs: Epochs) -> Overview:
    """Read it, as it is at one moment. Raises StoreUnavailable."""
    while True:
        before = await store.get(keys.folded)
        listing = await store.list(keys.ledger)
        after = await store.get(keys.folded)
        # An epoch that is folded in between has lost its marks, and would look as if nothing of it were done.
        if before == after:
            folded = 0 if after is None else needed(keys.folded, after.value, "epochs", int)
            return overview(listing.items, keys, epochs, folded)


def overview(items: Iterable[KeyValue], keys: JobKeys, epochs: Epochs, folded: int) -> Overview:
    """Sort the keys of the ledger by epoch, state and peer."""
    found: dict[int, tuple[dict[str, list[int]], dict[str, list[int]]]] = {}
    if folded < epochs.count:
        found[folded] = ({}, {})
    for item in items:
        if (read := keys.read_ledger(item.key)) is None or read[1] < folded:
            continue
        is_done, epoch, chunk = read
        owned, done = found.setdefault(epoch, ({}, {}))
        if is_done:
            done.setdefault(_settled_by(item.value), []).append(chunk)
        else:
            owned.setdefault(item.value.decode(errors="replace"), []).append(chunk)
    opened = tuple(
        EpochOverview(epoch, len(epochs.order(epoch)), _sorted(owned), _sorted(done))
        for epoch, (owned, done) in sorted(found.items())
    )
    return Overview(epochs.count, folded, opened)


def _settled_by(mark: bytes) -> str:
    try:
        return str(read_object(mark)["peer"])
    except (ValueError, KeyError):
        return "?"  # done all the same: it is the key that counts


def _sorted(chunks: Mapping[str, list[int]]) -> dict[str, tuple[int, ...]]:
    return {peer: tuple(sorted(numbers)) for peer, numbers in sorted(chunks.items())}
