"""The decisions of ``scale``, as pure functions: the peers to start or stop, and the GPU of the next peer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scaling:
    """The decision: the number of peers to start, the names of the peers to stop, and the reason."""

    start: int
    stop: tuple[str, ...]
    reason: str


def gpu_for(gpus: Sequence[int], taken: Sequence[int]) -> int | None:
    """Choose the GPU of the next peer; None: it trains on the CPU.

    ``gpus``: the GPU's number for each peer that is to train on one, in order; ``taken``: those of the running peers.
    """
    left = list(taken)
    for gpu in gpus:
        if gpu not in left:
            return gpu
        left.remove(gpu)
    return None


def name_from(names: Sequence[str], used: Sequence[str], running: Sequence[str]) -> str | None:
    """Choose the next peer's name of those that a certificate has; None when a peer runs under each.

    A name that no peer has had comes first; then that of the peer that was started longest ago, for its lease must end.
    """
    for name in (*(name for name in names if name not in used), *used):
        if name in names and name not in running:
            return name
    return None


def scaling(running: Sequence[str], wanted: int) -> Scaling:
    """Decide how to get from the ``running`` peers (oldest first) to ``wanted`` peers. The newest peers leave first."""
    missing = wanted - len(running)
    if missing > 0:
        return Scaling(missing, (), f"{len(running)} run, {wanted} are wanted")
    if missing < 0:
        return Scaling(
            0, tuple(running[missing:]), f"{len(running)} run, {wanted} are wanted: the newest leave"
        )
    return Scaling(0, (), f"{wanted} run already")
