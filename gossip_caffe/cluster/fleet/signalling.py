"""Signals to the processes of a cluster's peers, for ``cluster kill`` and for chaos runs."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from gossip_caffe.cluster.fleet.fleet import Fleet, PeerProcess
from gossip_caffe.errors import NotFound, UsageError

PARTS = ("agent", "solver", "loader", "all")
SIGNALS = ("KILL", "TERM", "STOP", "CONT")


@dataclass(frozen=True, slots=True)
class SentSignal:
    """A signal that was sent. ``signal``: its full name, "SIGKILL"; ``pids``: the processes that got it."""

    signal: str
    pids: list[int]


def running_peer(fleet: Fleet, name: str) -> PeerProcess:
    """Return the peer of that name. Raises NotFound when no such peer runs."""
    peer = fleet.peers.get(name)
    if peer is None or not peer.running:
        known = ", ".join(peer.name for peer in fleet.running) or "none"
        raise NotFound(
            f"no peer {name!r} runs in this cluster (running: {known})",
            remedy="give the name of one of those",
        )
    return peer


def send_signal(fleet: Fleet, name: str, what: str, number: str) -> SentSignal:
    """Send a signal of SIGNALS to one of the PARTS of a peer.

    Raises UsageError for another part or signal; NotFound when no such peer runs, or it has no such process now.
    """
    peer = running_peer(fleet, name)
    if what not in PARTS:
        raise UsageError(f"a peer has no {what!r}", remedy=f"give one of {', '.join(PARTS)}")
    if number not in SIGNALS:
        raise UsageError(f"{number!r} is not a signal for a peer", remedy=f"give one of {', '.join(SIGNALS)}")
    chosen = signal.Signals[f"SIG{number}"]
    parts = fleet.parts(peer)
    pids = [pid for part, pid in parts.items() if what in {part, "all"}]
    if not pids:
        raise NotFound(f"{name} has no {what} now", remedy="try again in a moment")
    fleet.signal(pids, chosen)
    return SentSignal(chosen.name, pids)
