"""Names of records for messages: source and key, line or number, by which a user finds them in the data."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from gossip_caffe.data.loader import OpenSources
from gossip_caffe.errors import GossipCaffeError
from gossip_caffe.job.spec.spec import JobSpec

MOST_NAMED = 4

Part = tuple[int, int, int]
"""Epoch, first record, and the one after the last."""


def name_records(spec: JobSpec, parts: Sequence[Part]) -> str:
    """Describe ranges of a job's records for a message: their numbers, and their names in the data.

    Only the numbers if the data cannot be opened, or if it is a user's own data set: its code runs only in loaders.
    """
    shown = parts[:MOST_NAMED]
    if not spec.data.sources or any(source.kind == "dataset" for source in spec.data.sources):
        return _joined([_numbers(part) for part in shown], len(parts))
    try:
        with closing(OpenSources(spec.data, spec.settings.seed, spec.first_record)) as sources:
            words = [f"{_numbers(part)} ({_keys(sources, part)})" for part in shown]
    except GossipCaffeError:
        words = [_numbers(part) for part in shown]
    return _joined(words, len(parts))


def _joined(words: Sequence[str], count: int) -> str:
    more = count - len(words)
    return "; ".join(words) + (f"; and {more} more" if more else "")


def _numbers(part: Part) -> str:
    _, start, stop = part
    return f"record {start}" if stop == start + 1 else f"records {start} to {stop - 1}"


def _keys(sources: OpenSources, part: Part) -> str:
    _, start, stop = part
    firsts, lasts = sources.where(start), sources.where(stop - 1)
    return ", ".join(
        first if first == last else f"{first} to {_short(last, first)}"
        for first, last in zip(firsts, lasts, strict=True)
    )


def _short(last: str, first: str) -> str:
    """Return the last record's name, without its path if the first record has the same."""
    path, comma, key = last.rpartition(", ")
    return key if comma and first.rpartition(", ")[0] == path else last
