"""The life of a peer as an explicit state machine; every step has a reason that is logged and shown.

JOINING ─▶ SYNCING ─▶ TRAINING ─▶ DRAINING ─▶ LEFT
   │  ▲       │         │  ▲          │
   │  └───────┤         ▼  │          │
   │          │       ORPHANED        │
   ▼          ▼          ▼            ▼
                 FAILED
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Where a peer is in its life."""

    JOINING = "joining"  # registering, building the net
    SYNCING = "syncing"  # loading the consensus, or founding it
    TRAINING = "training"  # claiming, stepping, exchanging
    ORPHANED = "orphaned"  # the lease is lost: owns nothing, trains on, must register again
    DRAINING = "draining"  # finishing what it began, sharing it, handing the rest back
    LEFT = "left"  # gone, with nothing owned and nothing running
    FAILED = "failed"  # gone because of an error; what it owned is freed by its lease


class Cause(StrEnum):
    """What happened to a peer."""

    BUILT = "built"  # registered, and the net stands
    SYNCED = "synced"  # the weights are the consensus's (or the job's first)
    LEASE_LOST = "lease lost"
    REGISTERED_AGAIN = "registered again"
    ASKED_TO_LEAVE = "asked to leave"
    JOB_FINISHED = "job finished"
    DRAINED = "drained"
    ERROR = "error"


TRANSITIONS: dict[tuple[State, Cause], State] = {
    (State.JOINING, Cause.BUILT): State.SYNCING,
    (State.SYNCING, Cause.SYNCED): State.TRAINING,
    (State.SYNCING, Cause.LEASE_LOST): State.JOINING,
    (State.TRAINING, Cause.LEASE_LOST): State.ORPHANED,
    (State.ORPHANED, Cause.REGISTERED_AGAIN): State.TRAINING,
    (State.TRAINING, Cause.ASKED_TO_LEAVE): State.DRAINING,
    (State.TRAINING, Cause.JOB_FINISHED): State.DRAINING,
    (State.ORPHANED, Cause.ASKED_TO_LEAVE): State.DRAINING,
    (State.ORPHANED, Cause.JOB_FINISHED): State.DRAINING,
    (State.DRAINING, Cause.DRAINED): State.LEFT,
    (State.JOINING, Cause.ASKED_TO_LEAVE): State.LEFT,
    (State.SYNCING, Cause.ASKED_TO_LEAVE): State.LEFT,
    (State.JOINING, Cause.JOB_FINISHED): State.LEFT,
    (State.SYNCING, Cause.JOB_FINISHED): State.LEFT,
    **{
        (state, Cause.ERROR): State.FAILED
        for state in (State.JOINING, State.SYNCING, State.TRAINING, State.ORPHANED, State.DRAINING)
    },
}


@dataclass(frozen=True, slots=True)
class Step:
    """A transition and why it was made; ``state`` equals the old one when the cause changes nothing there."""

    state: State
    reason: str


def step(state: State, cause: Cause, detail: str = "") -> Step:
    """The state after ``cause``. A cause that means nothing in a state (a lease lost while draining) leaves it."""
    reason = f"{cause.value}: {detail}" if detail else cause.value
    return Step(TRANSITIONS.get((state, cause), state), reason)
