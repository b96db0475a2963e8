"""The decision about a caller that asks for a place while places are held: it is pure (``admission``).

A transfer with a place must keep a pace (``Patience``): an offer, for example, must come whole within the time that a
first exchange of its size is allowed. If all places are taken, a newcomer takes the place

1. of the transfer that is furthest behind its pace; else
2. of a partner, or of a connection, that holds more places than the newcomer would hold; else
3. of an unproven transfer that is behind after ``BRIEF_S``, if the newcomer is proven. A caller is proven, under its
   name and on its connection, if its last transfer came whole.

Otherwise the newcomer is refused. A transfer at its pace is never ended by rules 1 and 3, so that a crowd of callers
cannot keep all transfers from ending.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gossip_caffe.gossip.policy.deadline import first_deadline_s

GRACE_S = 1.0
"""No transfer counts as behind before this time: a machine may be busy."""

BRIEF_S = 0.2
"""For this time an unproven transfer keeps its place against proven newcomers."""

STILL_S = 2.0
"""A transfer that makes no progress for this time is behind, however much of it has come: buffers may hold a part."""


@dataclass(frozen=True, slots=True)
class Patience:
    """The pace of one kind of transfer.

    ``whole_s``: the time that a transfer of a given number of bytes may take. A transfer is not behind before
    ``grace_s``, and is behind if it makes no progress for ``still_s``.
    """

    whole_s: Callable[[int], float] = lambda size_bytes: first_deadline_s(2 * size_bytes)
    grace_s: float = GRACE_S
    still_s: float = STILL_S


OFFERS = Patience()


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller that asks for a place: the name that it gives itself, and its connection ("" if that is not known)."""

    partner: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class HeldPlace:
    """One held place: its caller, its age, and the progress of its transfer (``moved_bytes``; None: not known).

    ``still_s``: the time since the last progress was seen.
    """

    caller: Caller
    age_s: float
    size_bytes: int
    moved_bytes: int | None
    still_s: float = 0.0
    is_proven: bool = False
    patience: Patience = OFFERS

    @property
    def behind_s(self) -> float:
        """The time by which the transfer is behind its pace, or has stood still; at most 0 if it is not behind."""
        return self._behind_s(self.patience.grace_s)

    @property
    def is_late(self) -> bool:
        """Whether a proven newcomer may take this place."""
        return not self.is_proven and self._behind_s(BRIEF_S) > 0

    def _behind_s(self, grace_s: float) -> float:
        if self.moved_bytes is None:
            return 0.0
        if self.still_s > self.patience.still_s:
            return self.still_s
        share = min(1.0, self.moved_bytes / self.size_bytes) if self.size_bytes else 1.0
        return self.age_s - grace_s - share * self.patience.whole_s(self.size_bytes)


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a newcomer gets a place, the index of the place that it takes over (None: a free one), and the reason."""

    is_admitted: bool
    instead_of: int | None
    reason: str


def admission(
    newcomer: Caller, held: Sequence[HeldPlace | None], most: int, is_proven: bool = False
) -> Admission:
    """Decide about a newcomer while these places are held. None: a place whose transfer is over, while work goes on."""
    if len(held) < most:
        return Admission(True, None, f"{most - len(held)} of {most} places are free")
    moving = [(index, place) for index, place in enumerate(held) if place is not None]
    behind = max(moving, key=lambda entry: entry[1].behind_s, default=None)
    if behind is not None and behind[1].behind_s > 0:
        return Admission(True, behind[0], f"{behind[1].caller.partner} is {behind[1].behind_s:.1f} s behind")
    of = Counter(place.caller.partner for _, place in moving)
    by = Counter(place.caller.source for _, place in moving)
    greedy = [entry for entry in moving if of[entry[1].caller.partner] > of[newcomer.partner] + 1]
    if greedy:
        index, place = max(greedy, key=lambda entry: entry[1].age_s)
        return Admission(
            True, index, f"{place.caller.partner} has {of[place.caller.partner]} of {most} places"
        )
    most_by = by[newcomer.source] + 1
    named = [entry for entry in moving if entry[1].caller.source] if newcomer.source else []
    crowding = [entry for entry in named if by[entry[1].caller.source] > most_by]
    if crowding:
        index, place = max(crowding, key=lambda entry: entry[1].age_s)
        return Admission(True, index, f"one connection has {by[place.caller.source]} of {most} places")
    late = [entry for entry in moving if entry[1].is_late] if is_proven else []
    if late:
        index, place = max(late, key=lambda entry: entry[1].age_s)
        return Admission(True, index, f"{place.caller.partner} is behind and unproven")
    return Admission(False, None, f"{most} are in flight here, and none is behind")
