"""The rollback of the ledger to a checkpoint, for a job that resumes from the checkpoint because no peer lives.

Training that peers exchanged after the checkpoint was lost with them, although the store calls those chunks settled.
So the marks are rewritten to match the checkpoint's weights, and all other chunks are trained again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from gossip_caffe.errors import Conflict
from gossip_caffe.json_records import is_count, read_object
from gossip_caffe.membership.etcd.store import CreatedAt, Delete, Guard, ModifiedAt, Operation, Put, Store
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.shards.epochs import ChunkId, Epochs
from gossip_caffe.shards.folded import writes as folded_writes

OPERATIONS_PER_TRANSACTION = 100
UNREADABLE = -1


@dataclass(frozen=True, slots=True)
class AccountState:
    """The ledger in the store: the number of folded epochs, and the settled chunks of open epochs.

    ``done``: chunk → id of the exchange or checkpoint that carried it; "" when its mark cannot be parsed.
    """

    folded: int
    done: Mapping[ChunkId, str]


@dataclass(frozen=True, slots=True)
class Target:
    """The training that the checkpoint's weights contain: folded epochs, and settled chunks of the others."""

    checkpoint: str
    folded: int
    done: frozenset[ChunkId]


@dataclass(frozen=True, slots=True)
class Rollback:
    """The writes that make the store match the weights of a checkpoint, and the reason.

    ``free``: done marks to delete. ``mark``: chunks to mark as settled. ``done``: the chunks that are settled
    afterwards, besides the ``folded`` epochs. ``freed_samples``: samples that must be trained again.
    """

    folded: int
    free: frozenset[ChunkId]
    mark: frozenset[ChunkId]
    done: frozenset[ChunkId]
    freed_samples: int
    reason: str


def rollback(account: AccountState, target: Target, epochs: Epochs) -> Rollback:
    """Decide the rollback to ``target``. Pure.

    A chunk that was settled via the checkpoint itself was marked after the checkpoint's own list was made. It is in
    the weights, so it stays settled.
    """
    carried = {chunk for chunk, via in account.done.items() if via == target.checkpoint}
    done = frozenset(chunk for chunk in {*target.done, *carried} if chunk.epoch >= target.folded)
    marked = frozenset(account.done)
    free = marked - done
    before = {
        *marked,
        *(
            ChunkId(epoch, chunk)
            for epoch in range(target.folded, min(account.folded, epochs.count))
            for chunk in epochs.order(epoch)
        ),
    }
    lost = [chunk for chunk in before if chunk.epoch >= target.folded and chunk not in done]
    samples = sum(stop - start for start, stop in map(epochs.extent, lost))
    return Rollback(
        folded=target.folded,
        free=free,
        mark=done - marked,
        done=done,
        freed_samples=samples,
        reason=f"{len(lost):,} chunks ({samples:,} samples) were learned after checkpoint {target.checkpoint}"
        if lost
        else f"all that is done is in checkpoint {target.checkpoint}",
    )


async def read_account(store: Store, keys: JobKeys) -> AccountState:
    """Read the ledger, with the id of the exchange or checkpoint that carried each settled chunk."""
    item = await store.get(keys.folded)
    folded = _folded(item.value) if item is not None else 0
    done: dict[ChunkId, str] = {}
    for mark in (await store.list(keys.done_marks)).items:
        if (read := keys.read_ledger(mark.key)) is not None:
            done[ChunkId(*read[1:])] = _carried_by(mark.value)
    return AccountState(folded, done)


def _folded(value: bytes) -> int:
    """The stored number of folded epochs; UNREADABLE for any other value, which is then overwritten."""
    try:
        epochs = read_object(value)["epochs"]
    except (ValueError, KeyError):
        return UNREADABLE
    return epochs if is_count(epochs) else UNREADABLE


def _carried_by(mark: bytes) -> str:
    try:
        return str(read_object(mark).get("via", ""))
    except ValueError:
        return ""  # not the id of any checkpoint


async def take_back(
    writer: FencedWriter, keys: JobKeys, planned: Rollback, was: AccountState, checkpoint: str, guard: Guard
) -> None:
    """Write a rollback, in transactions that each require ``guard``.

    After a crash it can be repeated: the result is the same.

    Raises Conflict when the guard fails: another peer makes a rollback, or trains.
    """
    right = guard.revision if isinstance(guard, CreatedAt | ModifiedAt) else 0
    operations: list[Operation] = []
    if planned.folded != was.folded:
        # This must be the first write: otherwise an epoch that is open again could be folded by counting marks that go
        # away.
        operations += folded_writes(keys, {"epochs": planned.folded, "back": right})
    operations += [
        Delete(keys.done_mark(chunk.epoch, chunk.chunk)) for chunk in sorted(planned.free, key=_key)
    ]
    value = json.dumps({"peer": "", "via": checkpoint, "back": right}).encode()
    operations += [
        Put(keys.done_mark(chunk.epoch, chunk.chunk), value) for chunk in sorted(planned.mark, key=_key)
    ]
    for first in range(0, len(operations), OPERATIONS_PER_TRANSACTION):
        part = operations[first : first + OPERATIONS_PER_TRANSACTION]
        if not (await writer.transact([guard], part)).succeeded:
            raise Conflict("another peer takes the job back to a checkpoint", remedy="wait for it")


def _key(chunk: ChunkId) -> tuple[int, int]:
    return chunk.epoch, chunk.chunk
