"""The script of the demonstration: pure decisions, from the job's progress, when a peer joins or is killed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

JOIN_AT = 1 / 3
KILL_AT = 1 / 2


@dataclass(frozen=True, slots=True)
class Join:
    """The action: start one more peer."""

    reason: str


@dataclass(frozen=True, slots=True)
class Kill:
    """The action: ``kill -9`` of this peer's agent, solver and loader at once."""

    peer: str
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """No action now."""

    reason: str


@dataclass(frozen=True, slots=True)
class DemoState:
    """The facts for the decision. ``progress``: the trained share of the budget, 0 to 1.

    ``training``: the names of the peers that train now, sorted. ``joined``, ``killed``: True if that has happened.
    """

    progress: float
    training: tuple[str, ...]
    joined: bool = False
    killed: bool = False


def next_action(state: DemoState) -> Join | Kill | Wait:
    """Decide the next action, with its reason. The join comes before the kill."""
    if not state.joined:
        if state.progress >= JOIN_AT:
            return Join(f"{state.progress:.0%} of the budget is trained")
        return Wait(f"a peer joins at {JOIN_AT:.0%} of the budget")
    if state.killed:
        return Wait("the script is done")
    if state.progress < KILL_AT:
        return Wait(f"a peer is killed at {KILL_AT:.0%} of the budget")
    if len(state.training) < 2:
        return Wait("the only peer that trains is not killed")
    return Kill(peer_to_kill(state.training), f"{state.progress:.0%} of the budget is trained")


def peer_to_kill(training: Sequence[str]) -> str:
    """Choose the peer to kill: one from the middle of the names, so neither the first nor the newest."""
    return sorted(training)[len(training) // 2]
