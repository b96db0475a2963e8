"""The record of a job that was stopped before its end: no peer begins to train it again."""

from __future__ import annotations

import json

from gossip_caffe.json_records import read_object
from gossip_caffe.membership.etcd.store import Put, Store
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.plain import is_text

MOST_REASON = 300
"""Limit of the reason, in characters."""


def stop_of(keys: JobKeys, by: str) -> Put:
    """The write that stops a job. ``by``: who stopped it, and why; it is shortened to one line."""
    return Put(keys.stopped, json.dumps({"by": " ".join(by.split())[:MOST_REASON]}).encode())


async def why_stopped(store: Store, keys: JobKeys) -> str:
    """Why a job was stopped; "" if it was not, or if the record is none. Raises StoreError."""
    item = await store.get(keys.stopped)
    try:
        by = read_object(item.value)["by"] if item is not None else ""
    except (ValueError, KeyError):
        return ""
    return by if isinstance(by, str) and is_text(by, MOST_REASON) else ""
