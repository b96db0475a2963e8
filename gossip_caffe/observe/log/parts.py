"""The files of one peer's event log: the closed parts, the open part, and the batches of the line that still grows.

For peer ``p0`` they are, in the order of their events, which is also the order of their names:

- ``p0+000001.jsonl.gz``, ``p0+000002.jsonl.gz``, …: closed parts; one that is not compressed yet has no ``.gz``;
- ``p0.jsonl``: the open part, to which the peer appends;
- ``p0.tail``: the trained batches of a run that has no line yet (``runs``).

A peer's name contains no ``+``, so the name of a file names its peer. The first line of a part, except of the first
part, is the event ``log-part`` with the part's number: a missing part is found by it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from gossip_caffe.observe.log.events import COMPRESSED, Event

OPEN = ".jsonl"
TAIL = ".tail"
_CLOSED = re.compile(r"([^+]+)\+([0-9]{6,})\.jsonl(?:\.gz)?")


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """One part of a log. ``number``: counted from 1."""

    number: int
    path: Path

    @property
    def compressed(self) -> bool:
        """True for a part that is compressed."""
        return self.path.suffix == COMPRESSED


def open_part(folder: Path, peer: str) -> Path:
    """The path of a peer's open part."""
    return folder / f"{peer}{OPEN}"


def tail_of(folder: Path, peer: str) -> Path:
    """The path of the file with the batches of the run that has no line yet."""
    return folder / f"{peer}{TAIL}"


def closed_part(folder: Path, peer: str, number: int) -> Path:
    """The path of a closed part that is not compressed."""
    return folder / f"{peer}+{number:06d}{OPEN}"


def peers_in(folder: Path) -> list[str]:
    """The names of the peers with a log in this folder, sorted."""
    names = {path.name for path in folder.glob("*")}
    found = {closed[1] for name in names if (closed := _CLOSED.fullmatch(name))}
    found |= {name.removesuffix(OPEN) for name in names if name.endswith(OPEN) and "+" not in name}
    return sorted(name for name in found if not name.startswith("."))


def closed_parts(folder: Path, peer: str) -> list[Part]:
    """The closed parts of a peer's log, in order. Of a part that is there twice, the one that is not compressed.

    A part is there twice if its writer was killed between the end of its compression and the removal of the other file.
    """
    found: dict[int, Part] = {}
    for path in sorted(folder.glob(f"{peer}+*")):
        if (closed := _CLOSED.fullmatch(path.name)) and closed[1] == peer:
            found.setdefault(int(closed[2]), Part(int(closed[2]), path))
    return sorted(found.values())


def parts_of(folder: Path, peer: str) -> list[Part]:
    """All parts of a peer's log, in order; the open part is the last, if it exists."""
    parts = closed_parts(folder, peer)
    path = open_part(folder, peer)
    if path.exists():
        after = parts[-1].number + 1 if parts else 1
        parts.append(Part(max(after, number_of_open(path)), path))
    return parts


def number_of_open(path: Path) -> int:
    """The number in the first line of an open part; 1 if it states none."""
    try:
        with path.open("rb") as file:
            event = json.loads(file.readline())
        number = event["number"] if event["event"] == Event.LOG_PART else 1
    except (OSError, ValueError, KeyError, TypeError):
        return 1
    return number if isinstance(number, int) else 1
