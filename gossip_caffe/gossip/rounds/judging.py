"""The judgement of a round's contributions before any mean is applied: a pure function.

The owner of each segment measures how far each member's part is from the mean of the segment. Together these give the
distance of each member from the whole mean. A member that is alive and wrong is left out, and the round is formed anew
without it (``bounded-half``, ``finite-weights``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gossip_caffe.gossip.codecs.message import Refusal
from gossip_caffe.gossip.rounds.words import Word


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A member that must not be in the round, and the reason."""

    peer: str
    refusal: Refusal
    reason: str


def limit_for(half_limit: float, contributors: int) -> float:
    """The largest distance from the mean, in lengths of the mean; 0: no limit.

    Of two peers each is half of their difference away from their mean, which is the half of an exchange. Of many peers
    a wrong one is nearly the whole difference away.
    """
    return 2.0 * half_limit * (1.0 - 1.0 / max(2, contributors))


def judged(scattered: Sequence[Word], half_limit: float) -> tuple[Exclusion, ...]:
    """The members to leave out, by the SCATTERED words of all members; empty if the round may be applied.

    ``half_limit``: the limit of one exchange now; 0: no limit. Of several members that are too far from the mean only
    the farthest is left out: without it the mean is another. Of two contributors both are left out, because nothing
    tells which of them is wrong.
    """
    wild = sorted({figure.peer for word in scattered for figure in word.figures if not figure.finite})
    if wild:
        return tuple(
            Exclusion(peer, Refusal.NON_FINITE, f"the weights of {peer} hold NaN, Inf or absurd values")
            for peer in wild
        )
    apart: dict[str, float] = {}
    for word in scattered:
        for figure in word.figures:
            apart[figure.peer] = apart.get(figure.peer, 0.0) + max(0.0, figure.apart)
    length = math.sqrt(sum(max(0.0, word.square) for word in scattered))
    limit = limit_for(half_limit, len(apart))
    if not limit or len(apart) < 2:
        return ()
    ratios = {peer: _over(math.sqrt(square), length) for peer, square in apart.items()}
    far = [peer for peer in sorted(ratios) if not ratios[peer] <= limit]
    if not far:
        return ()
    worst = far if len(apart) == 2 else [max(far, key=lambda peer: (ratios[peer], peer))]
    return tuple(
        Exclusion(
            peer,
            Refusal.TOO_FAR,
            f"{peer} is {ratios[peer]:.3g} of the mean's length away from it, and the limit is {limit:.3g}",
        )
        for peer in worst
    )


def _over(distance: float, length: float) -> float:
    if not distance:
        return 0.0
    return distance / length if length and math.isfinite(length) else math.inf
