"""How often one peer asks the store: the requests of all peers together do not grow with their number."""

from __future__ import annotations

PEERS_A_SECOND = 100
"""Requests a second of one kind, of all peers together, once the peers are many."""


def poll_interval_s(shortest_s: float, living: int, keys: int = 0) -> float:
    """Seconds that a peer waits between two requests of one kind: ``shortest_s`` among few peers, longer among many.

    ``living``: the number of training peers. ``keys``: the number of keys that the answer lists; an answer of ten
    thousand keys is asked for ten times less often than one of a thousand.
    """
    return max(shortest_s, living / PEERS_A_SECOND * max(1.0, keys / 1000))
