"""Notices that this machine is taken away soon, read from the metadata endpoint of a cloud.

Each cloud has a URL for it. AWS answers 404 until there is a notice, then 200 with a JSON object; Google Cloud answers
200 with FALSE, NONE, or an empty body until then. So one rule serves both: see ``judged``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from gossip_caffe.clock import Clock
from gossip_caffe.errors import EnvironmentProblem
from gossip_caffe.printable import printable_line

ASK_EVERY_S = 5.0
"""The interval that AWS recommends. Google Cloud gives 30 s of notice, and AWS gives 120 s."""
NOTHING = frozenset({"", "none", "false"})
NO_NOTICE = frozenset({204, 404})
MOST_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a metadata endpoint: the HTTP status and the body."""

    status: int
    body: bytes


class Metadata(Protocol):
    """The metadata endpoint of a machine."""

    @property
    def place(self) -> str:
        """The endpoint's URL, for messages."""
        ...

    async def ask(self) -> Answer:
        """Return its answer. Raises EnvironmentProblem if there is none within a short time."""
        ...


class Kind(Enum):
    """The meaning of an answer."""

    NO_NOTICE = auto()
    NOTICE = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Judgement:
    """The meaning of an answer, and the reason for it."""

    kind: Kind
    reason: str


def judged(answer: Answer) -> Judgement:
    """Judge an answer. A notice is HTTP 200 with a body other than NONE, FALSE or nothing.

    A JSON object with an empty list ``Events`` is no notice. HTTP 204 and 404 mean that there is no notice. Any other
    status means nothing.
    """
    if answer.status in NO_NOTICE:
        return Judgement(Kind.NO_NOTICE, f"HTTP {answer.status}")
    if answer.status != 200:
        return Judgement(Kind.UNKNOWN, f"HTTP {answer.status}")
    text = printable_line(answer.body.decode("utf-8", "replace").strip())
    if text.lower() in NOTHING or _without_events(answer.body):
        return Judgement(Kind.NO_NOTICE, text or "an empty body")
    return Judgement(Kind.NOTICE, text[:MOST_SHOWN])


def _without_events(body: bytes) -> bool:
    try:
        found = json.loads(body)
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("Events") == []


async def leave_at_notice(
    metadata: Metadata,
    peer: str,
    clock: Clock,
    say: Callable[[str], None],
    leave: Callable[[str], None],
) -> None:
    """Ask the endpoint until it has a notice, and then call ``leave`` with the reason.

    An endpoint that does not answer, or gives another answer, ends nothing. ``say`` is called once for each cause.
    """
    said: set[str] = set()
    while True:
        try:
            judgement = judged(await metadata.ask())
        except EnvironmentProblem as error:
            judgement = Judgement(Kind.UNKNOWN, error.message)
        if judgement.kind is Kind.NOTICE:
            leave(f"notice of preemption: {judgement.reason}")
            return
        if judgement.kind is Kind.UNKNOWN and judgement.reason not in said:
            said.add(judgement.reason)
            say(
                f"{peer}: no word from --preemption-url {metadata.place} ({judgement.reason}); it is asked again every "
                f"{ASK_EVERY_S:.0f} s, and the peer trains meanwhile"
            )
        await clock.sleep(ASK_EVERY_S)
