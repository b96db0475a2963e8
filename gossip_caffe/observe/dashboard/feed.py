"""The parts of the page with their revisions: which parts a reader lacks, and how it is told. Pure.

A reader is not sent a queue of changes but the parts that are newer than those it has. So a reader that comes late, or
reads slowly, gets the newest picture at once, and costs no memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

RETRY_MS = 1000
BEAT = b"event: beat\ndata: \n\n"
"""A message without news: a reader that hears nothing for long knows that the connection is lost."""
_ID = re.compile(r"([0-9a-f]{1,32})-([0-9]{1,15})")


@dataclass(frozen=True, slots=True)
class Part:
    """The HTML of one part of the page, and the revision since which it is so."""

    html: str
    since: int


@dataclass(frozen=True, slots=True)
class Feed:
    """All parts, by name. ``origin``: a random word of this process; revisions of another one mean nothing here."""

    origin: str
    revision: int = 0
    parts: Mapping[str, Part] = field(default_factory=dict)

    def advanced(self, parts: Mapping[str, str]) -> Feed:
        """The feed after a look that made these parts; the same feed if none of them has changed."""
        changed = {
            name: html
            for name, html in parts.items()
            if name not in self.parts or self.parts[name].html != html
        }
        if not changed:
            return self
        revision = self.revision + 1
        newer = {name: Part(html, revision) for name, html in changed.items()}
        return Feed(self.origin, revision, {**self.parts, **newer})

    def revision_of(self, last_event_id: str) -> int:
        """The revision that a reader has; 0 for a reader that has none of this feed."""
        found = _ID.fullmatch(last_event_id)
        if found is None or found[1] != self.origin or int(found[2]) > self.revision:
            return 0
        return int(found[2])

    def newer_than(self, revision: int) -> dict[str, str]:
        """The parts that changed after this revision."""
        return {name: part.html for name, part in self.parts.items() if part.since > revision}

    def message(self, revision: int) -> bytes:
        """A server-sent event with the parts that changed after this revision."""
        told = json.dumps(self.newer_than(revision), separators=(",", ":"))
        return (
            f"retry: {RETRY_MS}\nid: {self.origin}-{self.revision}\nevent: parts\ndata: {told}\n\n".encode()
        )
