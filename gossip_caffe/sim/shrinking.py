"""From a schedule of faults that fails to a minimal part of it that still fails (delta debugging, Zeller 2002)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gossip_caffe.sim.faults.faults import Fault

Fails = Callable[[Sequence[Fault]], bool]
"""True if a run with exactly these faults fails."""


def shrunk(schedule: Sequence[Fault], fails: Fails) -> tuple[Fault, ...]:
    """A part of the schedule that still fails, and from which no fault can be left out."""
    faults = tuple(schedule)
    if fails(()):
        return ()
    pieces = 2
    while len(faults) > 1:
        size = -(-len(faults) // pieces)
        parts = [faults[at : at + size] for at in range(0, len(faults), size)]
        smaller = _smaller(parts, fails)
        if smaller is not None:
            faults, was_half = smaller, pieces == 2
            pieces = 2 if was_half else max(2, pieces - 1)
        elif size == 1:
            return faults
        else:
            pieces = min(len(faults), 2 * pieces)
    return faults


def _smaller(parts: Sequence[tuple[Fault, ...]], fails: Fails) -> tuple[Fault, ...] | None:
    """One of the parts alone, or all parts but one, if that still fails; else None."""
    candidates = list(parts) if len(parts) > 1 else []
    if len(parts) > 2:
        candidates += [
            tuple(fault for other in parts if other is not part for fault in other) for part in parts
        ]
    return next((candidate for candidate in candidates if fails(candidate)), None)
