"""The audit of a job's keys in the store: it finds keys that no peer can have written, so that they can be removed.

Such keys come from mistakes, from leftovers and from unrelated programs. They would count as settled chunks, or keep
chunks claimed for ever. The audit is no defence against a deliberate forger, who can write exactly what peers write:
only etcd's own permissions prevent that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from gossip_caffe.json_records import is_count, read_object
from gossip_caffe.membership.etcd.store import KeyValue
from gossip_caffe.membership.keys import JobKeys, is_name
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.plain import is_plain, is_text
from gossip_caffe.shards.epochs import Epochs

MOST_VIA = 256
"""Limit of the id of an exchange or a checkpoint, in characters."""


@dataclass(frozen=True, slots=True)
class Stray:
    """A key that no peer has written in this form.

    ``surely``: remove it at once. Otherwise it must still be there, unchanged, at the next audit.
    """

    item: KeyValue
    why: str
    surely: bool = True


def not_settled(item: KeyValue) -> str:
    """Why neither the chunk's owner nor a rollback can have written this done mark; "" when one of them may have."""
    try:
        mark = read_object(item.value)
    except ValueError:
        return "it is no done mark"
    peer, via = mark.get("peer"), mark.get("via")
    if not isinstance(peer, str) or not isinstance(via, str) or not is_text(via, MOST_VIA):
        return "it is no done mark"
    if "back" in mark:  # written by a rollback to a checkpoint
        return (
            "" if _is_earlier(mark["back"], item) and peer == "" and is_plain(via) else "it is no done mark"
        )
    if not is_name(peer) or not _is_earlier(mark.get("claimed"), item):
        return "the chunk was not claimed before"
    return ""


def _is_earlier(revision: object, item: KeyValue) -> bool:
    return is_count(revision) and 0 < revision < item.mod_revision


def strays_in_ledger(
    items: Iterable[KeyValue], keys: JobKeys, epochs: Epochs, folded: int, leases: Collection[int]
) -> list[Stray]:
    """Find the strays among the ledger's keys. ``leases``: the leases of all members, read after ``items``."""
    found = []
    for item in items:
        read = keys.read_ledger(item.key)
        if read is None:
            found.append(Stray(item, "the ledger has no such key"))
            continue
        is_done, epoch, chunk = read
        if not 0 <= epoch < epochs.count or chunk not in epochs.places(epoch):
            found.append(Stray(item, "the job has no such chunk"))
        elif epoch < folded:
            found.append(Stray(item, "its epoch is folded", surely=False))
        elif is_done and (why := not_settled(item)):
            found.append(Stray(item, why))
        elif not is_done and (stray := _stray_claim(item, leases)) is not None:
            found.append(stray)
    return found


def _stray_claim(item: KeyValue, leases: Collection[int]) -> Stray | None:
    if not item.lease:
        return Stray(item, "it is attached to no lease, and would never end")
    if item.lease not in leases:
        return Stray(item, "it is attached to the lease of no member", surely=False)
    return None


def strays_among_members(items: Iterable[KeyValue], keys: JobKeys, fences: Mapping[str, int]) -> list[Stray]:
    """Find records that belong to no member. They would stay as long as another peer's lease, or for ever.

    ``fences``: peer → the lease of its fence, read after ``items``; every peer that writes has a fence. A record that
    cannot be parsed is no stray while it has a lease: a newer version may have written it.
    """
    found: list[Stray] = []
    first: dict[int, str] = {}
    for item in sorted(items, key=lambda item: item.create_revision):
        name = item.key.removeprefix(keys.peers)
        try:
            record = PeerRecord.from_json(item.value)
        except ValueError:
            if not item.lease:
                found.append(Stray(item, "it is attached to no lease, and would never end"))
            continue
        if not item.lease:
            found.append(Stray(item, "it is attached to no lease, and would never end"))
        elif record.peer != name or record.incarnation != f"{item.lease:x}":
            found.append(Stray(item, "its lease is not that of the peer in it", surely=False))
        elif first.setdefault(item.lease, name) != name:
            found.append(Stray(item, f"it is attached to the lease of {first[item.lease]}", surely=False))
        elif fences.get(name) != item.lease:
            found.append(Stray(item, "no peer with that name and lease has a fence", surely=False))
    return found


def stray_holder(item: KeyValue | None, leases: Collection[int]) -> Stray | None:
    """The stray if a duty, or the right to found the job, is held by no living peer; None otherwise."""
    return _stray_claim(item, leases) if item is not None else None


def to_remove(found: Iterable[Stray], before: Mapping[str, int]) -> list[Stray]:
    """The strays to remove now. ``before``: key → revision, of all strays that the previous audit found."""
    return [stray for stray in found if stray.surely or before.get(stray.item.key) == stray.item.mod_revision]
