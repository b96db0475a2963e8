"""The record of a job's end. It is believed only if the ledger and an announced checkpoint agree with it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.json_records import read_object
from gossip_caffe.membership.etcd.store import Absent, Guard, KeyValue, ModifiedAt, Put, Store
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.observe.log.ignored import Note, discard_note
from gossip_caffe.plain import is_plain
from gossip_caffe.shards.epochs import Epochs


@dataclass(frozen=True, slots=True)
class JobEnd:
    """The record under ``finished``, written at a ``revision``. ``why_not``: why it is not believed; "" when it is."""

    checkpoint: str
    revision: int
    why_not: str = ""

    @property
    def believed(self) -> bool:
        """True if the job has ended."""
        return not self.why_not


async def read_end(store: Store, keys: JobKeys, spec: JobSpec, ignored: Note = discard_note) -> JobEnd | None:
    """Read the record of the end; None without one. ``ignored`` is called for one that is not believed.

    Raises StoreUnavailable.
    """
    item = await store.get(keys.finished)
    if item is None:
        return None
    checkpoint = _named(item.value)
    announced = await store.get(keys.checkpoint(checkpoint)) if checkpoint else None
    end = end_of(item, announced, await store.get(keys.folded), spec)
    if end.why_not:
        ignored(item.key, item.mod_revision, f"the job is not finished: {end.why_not}")
    return end


async def write_end(
    writer: FencedWriter,
    keys: JobKeys,
    checkpoint: str,
    *,
    progress_samples: int,
    wall: float,
    guard: Guard,
    before: JobEnd | None,
) -> int:
    """Record that the job ended with ``checkpoint``. Returns the revision; 0 when another peer was faster.

    ``wall``: seconds since 1970. ``guard``: this peer still has the duty of making checkpoints. ``before``: an earlier
    record that is not believed, to be overwritten. Raises StoreError.
    """
    value = {"checkpoint": checkpoint, "progress_samples": progress_samples, "wall": wall}
    key = keys.finished
    nobody_else = Absent(key) if before is None else ModifiedAt(key, before.revision)
    result = await writer.transact([nobody_else, guard], [Put(key, json.dumps(value).encode())])
    return result.revision if result.succeeded else 0


def end_of(item: KeyValue, announced: KeyValue | None, folded: KeyValue | None, spec: JobSpec) -> JobEnd:
    """Judge a record of an end by its checkpoint's announcement and by the number of folded epochs. Pure."""
    checkpoint = _named(item.value)
    if checkpoint is None:
        return JobEnd("", item.mod_revision, "it names no checkpoint")
    return JobEnd(checkpoint, item.mod_revision, _objection(checkpoint, announced, folded, spec))


def named_end(item: KeyValue) -> str:
    """The checkpoint that a record of an end names; "" when it names none."""
    return _named(item.value) or ""


def _named(value: bytes) -> str | None:
    try:
        name = read_object(value)["checkpoint"]
    except (ValueError, KeyError):
        return None
    return name if isinstance(name, str) and is_plain(name) else None


def _objection(checkpoint: str, announced: KeyValue | None, folded: KeyValue | None, spec: JobSpec) -> str:
    try:
        announcement = Announcement.from_json(announced.value) if announced is not None else None
    except ValueError:
        announcement = None
    if announcement is None or announcement.checkpoint != checkpoint:
        return f"checkpoint {checkpoint} is not announced"
    if announcement.progress_samples != spec.budget_samples:
        progress = f"{announcement.progress_samples:,} of {spec.budget_samples:,} samples"
        return f"checkpoint {checkpoint} is at {progress}"
    epochs = Epochs.of(spec).count
    if (done := _epochs(folded)) != epochs:
        return f"{done} of {epochs} epochs are folded"
    return ""


def _epochs(folded: KeyValue | None) -> int:
    try:
        epochs = read_object(folded.value)["epochs"] if folded is not None else 0
    except (ValueError, KeyError):
        return 0
    return epochs if isinstance(epochs, int) else 0
