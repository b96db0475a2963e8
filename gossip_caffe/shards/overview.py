"""The ledger as a status command shows it: claimed, settled and free chunks, by epoch and peer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gossip_caffe.json_records import needed, read_object
from gossip_caffe.membership.etcd.store import KeyValue, Store
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.shards.epochs import Epochs


@dataclass(frozen=True, slots=True)
class EpochOverview:
    """One open epoch: its claimed (``owned``) and settled (``done``) chunks, by peer, in ascending order.

    ``chunks``: the number of all its chunks.
    """

    epoch: int
    chunks: int
    owned: Mapping[str, tuple[int, ...]]
    done: Mapping[str, tuple[int, ...]]

    @property
    def owned_chunks(self) -> int:
        """The number of claimed chunks."""
        return sum(map(len, self.owned.values()))

    @property
    def done_chunks(self) -> int:
        """The number of settled chunks."""
        return sum(map(len, self.done.values()))

    @property
    def left_chunks(self) -> int:
        """The number of free chunks."""
        return self.chunks - self.owned_chunks - self.done_chunks

    @property
    def peers(self) -> tuple[str, ...]:
        """All peers that have claimed or settled a chunk of the epoch, sorted."""
        return tuple(sorted({*self.owned, *self.done}))


@dataclass(frozen=True, slots=True)
class Overview:
    """A job's ledger at one moment. Epochs 0 … ``folded``-1 are folded."""

    epochs: int
    folded: int
    open: tuple[EpochOverview, ...]

    @property
    def finished(self) -> bool:
        """True if every chunk of the budget is settled."""
        return self.folded >= self.epochs


async def read_overview(store: Store, keys: JobKeys, epochs: Epochs) -> Overview:
    """Read the ledger at one moment. Raises StoreUnavailable."""
    while True:
        before = await store.get(keys.folded)
        listing = await store.list(keys.ledger)
        after = await store.get(keys.folded)
        # An epoch that is folded between the two reads has lost its marks, and would look as if no chunk of it were
        # settled.
        if before == after:
            folded = 0 if after is None else needed(keys.folded, after.value, "epochs", int)
            return overview(listing.items, keys, epochs, folded)


def overview(items: Iterable[KeyValue], keys: JobKeys, epochs: Epochs, folded: int) -> Overview:
    """Group the keys of the ledger by epoch, state and peer."""
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
        return "?"  # settled all the same: the key counts, and its value only names the peer


def _sorted(chunks: Mapping[str, list[int]]) -> dict[str, tuple[int, ...]]:
    return {peer: tuple(sorted(numbers)) for peer, numbers in sorted(chunks.items())}
