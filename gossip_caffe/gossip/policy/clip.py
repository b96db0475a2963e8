"""The cut of long halves (``half_clip``): a partner that stays just under the bound gains little by it.

The bound (averaging/bound.py) is the same for all partners, and is several times as long as an honest half. A hostile
member that knows it could move a peer by that much in every exchange. So a half longer than ``half_clip`` times the
usual length is shortened to that. The usual length is the median, over the partners, of the median length of each
partner's last halves: a partner changes only its own median, and half of all partners would have to be hostile to
change the other.

That holds only where a partner cannot take many names, so halves are cut only between peers with certificates. A half
that was cut is not the opposite of the partner's: the sum of all weights moves by what was cut, which is counted.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Container

from gossip_caffe.gossip.policy.remembering import forget_departed, remember

LAST = 16
"""The number of a partner's last halves whose median counts."""
FEWEST_HALVES, FEWEST_PARTNERS = 3, 3
"""A partner's median counts from so many halves on, and nothing is cut before so many partners count."""


class Clip:
    """The lengths of one peer's halves, by partner. ``half_clip``: 0 cuts nothing.

    ``mass_error``: the shift of the sum of all weights by what was cut.
    """

    def __init__(self, half_clip: float = 0.0) -> None:
        self.mass_error = 0.0
        self.cuts = 0
        self._half_clip = half_clip
        self._lengths: dict[str, deque[float]] = {}

    def share(self, norm: float) -> float:
        """The share of a half of length ``norm`` that may be applied: 1.0, or less for one that is too long."""
        usual = self.usual
        if not usual or norm <= self._half_clip * usual:
            return 1.0
        return self._half_clip * usual / norm

    @property
    def usual(self) -> float:
        """The usual length of a half; 0.0 while it is not known, or nothing is to be cut."""
        if not self._half_clip:
            return 0.0
        medians = [
            statistics.median(lengths) for lengths in self._lengths.values() if len(lengths) >= FEWEST_HALVES
        ]
        return statistics.median(medians) if len(medians) >= FEWEST_PARTNERS else 0.0

    def note(self, partner: str, norm: float, total: float, share: float) -> None:
        """Record that a half of this length was applied to this share. ``total``: the sum of its values."""
        if not self._half_clip:
            return
        lengths = self._lengths.get(partner)
        if lengths is None:
            lengths = deque(maxlen=LAST)
        lengths.append(norm)
        remember(self._lengths, partner, lengths)
        if share < 1.0:
            self.cuts += 1
            self.mass_error += (share - 1.0) * total

    def forget(self, living: Container[str]) -> None:
        """Drop the lengths of all partners that are not among ``living``."""
        forget_departed(self._lengths, living)

    def start_over(self) -> None:
        """Drop all lengths: the peer has loaded other weights."""
        self._lengths.clear()
