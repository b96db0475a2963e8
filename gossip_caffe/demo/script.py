"""What happens to the peers during the demonstration, and when: pure decisions on the job's progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

JOIN_AT = 1 / 3
KILL_AT = 1 / 2


@dataclass(frozen=True, slots=True)
class Join:
    """Start one more peer."""

    reason: str


@dataclass(frozen=True, slots=True)
class Kill:
    """``kill -9`` of this peer: agent, solver and loader at once."""

    peer: str
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do now."""

    reason: str


@dataclass(frozen=True, slots=True)
class Scene:
    """What the script sees. ``training``: names of the peers that train now, sorted."""

    progress: float
    training: tuple[str, ...]
    joined: bool = False
    killed: bool = False


def next_act(scene: Scene) -> Join | Kill | Wait:
    """Decide the next thing to do, and say why. The join comes before the kill."""
    if not scene.joined:
        if scene.progress >= JOIN_AT:
            return Join(f"{scene.progress:.0%} of the budget is trained")
        return Wait(f"a peer joins at {JOIN_AT:.0%} of the budget")
    if scene.killed:
        return Wait("the script is played")
    if scene.progress < KILL_AT:
        return Wait(f"a peer is killed at {KILL_AT:.0%} of the budget")
    if len(scene.training) < 2:
        return Wait("the only peer that trains is left alone")
    return Kill(victim(scene.training), f"{scene.progress:.0%} of the budget is trained")


def victim(training: Sequence[str]) -> str:
    """Whom to kill: one from the middle of the names, so neither the first peer nor the newest."""
    return sorted(training)[len(training) // 2]
