"""How often one peer asks the store, so that what all peers ask together does not grow with their number."""

from __future__ import annotations

PEERS_A_SECOND = 100
"""All peers together do each of the things that they do now and then about this often, once there are many."""


def asks_after_s(shortest_s: float, living: int, keys: int = 0) -> float:
    """How long a peer waits before it asks the same again: ``shortest_s`` among few, longer among many.

    ``keys``: how many the answer lists beyond the first few; an answer of ten thousand is asked for ten times less
    often than one of a thousand.
    """
    return max(shortest_s, living / PEERS_A_SECOND * max(1.0, keys / 1000))
