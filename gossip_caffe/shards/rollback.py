"""The account taken back to what a checkpoint holds: for a job that goes on from it because nobody lives any more.

What peers shared with each other after the checkpoint died with them, although the store calls it done. So the marks
are made to say again what the checkpoint's weights hold, and everything else is trained again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from gossip_caffe.errors import Conflict
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.store import Delete, Guard, Operation, Put, Store
from gossip_caffe.shards.epochs import ChunkId, Epochs
from gossip_caffe.stored import needed, read_object

OPERATIONS_PER_TRANSACTION = 100


@dataclass(frozen=True, slots=True)
class Standing:
    """What the store says: epochs folded, and the done chunks of the others with what carried each (``via``)."""

    folded: int
    done: Mapping[ChunkId, str]


@dataclass(frozen=True, slots=True)
class Target:
    """What the weights of a checkpoint hold: whole epochs, and chunks of the others."""

    checkpoint: str
    folded: int
    done: frozenset[ChunkId]


@dataclass(frozen=True, slots=True)
class Rollback:
    """What is to be written so that the store says just what the weights hold, and why.

    ``free`` are marks to take away, ``mark`` chunks to mark done; ``done`` is what stays done in the end, beside the
    ``folded`` epochs.
    """

    folded: int
    free: frozenset[ChunkId]
    mark: frozenset[ChunkId]
    done: frozenset[ChunkId]
    freed_samples: int
    reason: str


def rollback(standing: Standing, target: Target, epochs: Epochs) -> Rollback:
    """Decide what goes back.

    A chunk that was settled by the checkpoint itself was marked after the checkpoint's own list was made: it is in the
    weights, and stays done.
    """
    carried = {chunk for chunk, via in standing.done.items() if via == target.checkpoint}
    done = frozenset(chunk for chunk in {*target.done, *carried} if chunk.epoch >= target.folded)
    marked = frozenset(standing.done)
    free = marked - done
    before = {
        *marked,
        *(
            ChunkId(epoch, chunk)
            for epoch in range(target.folded, standing.folded)
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


async def standing(store: Store, keys: JobKeys) -> Standing:
    """Read the account with what carried each chunk."""
    item = await store.get(keys.folded)
    folded = needed(keys.folded, item.value, "epochs", int) if item is not None else 0
    done: dict[ChunkId, str] = {}
    for mark in (await store.list(keys.done_marks)).items:
        if (read := keys.read_ledger(mark.key)) is not None:
            done[ChunkId(*read[1:])] = _carried_by(mark.value)
    return Standing(folded, done)


def _carried_by(mark: bytes) -> str:
    try:
        return str(read_object(mark).get("via", ""))
    except ValueError:
        return ""  # by no checkpoint that is known


async def take_back(
    writer: FencedWriter, keys: JobKeys, planned: Rollback, was: Standing, checkpoint: str, guard: Guard
) -> None:
    """Write a rollback, in transactions that each need ``guard``; begun again after a death it comes to the same.

    Raises Conflict when the guard fails: somebody else goes back, or trains.
    """
    operations: list[Operation] = []
    if planned.folded != was.folded:
        # First of all: an epoch that is open again must not be folded by a count of too many marks.
        operations.append(Put(keys.folded, json.dumps({"epochs": planned.folded}).encode()))
    operations += [
        Delete(keys.done_mark(chunk.epoch, chunk.chunk)) for chunk in sorted(planned.free, key=_key)
    ]
    value = json.dumps({"peer": "", "via": checkpoint}).encode()
    operations += [
        Put(keys.done_mark(chunk.epoch, chunk.chunk), value) for chunk in sorted(planned.mark, key=_key)
    ]
    for first in range(0, len(operations), OPERATIONS_PER_TRANSACTION):
        part = operations[first : first + OPERATIONS_PER_TRANSACTION]
        if not (await writer.transact([guard], part)).succeeded:
            raise Conflict("another peer takes the job back to a checkpoint", remedy="wait for it")


def _key(chunk: ChunkId) -> tuple[int, int]:
    return chunk.epoch, chunk.chunk
