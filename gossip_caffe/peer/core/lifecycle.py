"""The lifecycle of a peer as an explicit state machine. Every transition has a reason, which is logged and shown.

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

GRACE_S = 10.0
"""The default of --grace: the usual 10 s of Compose, and less than those of Kubernetes, Slurm and systemd."""


class State(StrEnum):
    """The state of a peer in its lifecycle."""

    JOINING = "joining"  # it registers, and builds the net
    SYNCING = "syncing"  # it loads the consensus, or founds the job
    TRAINING = "training"  # it claims, trains and exchanges
    ORPHANED = "orphaned"  # its lease is lost: it owns nothing, trains on, and has to register again
    DRAINING = "draining"  # it finishes the chunks that it has begun, shares them, and releases the others
    LEFT = "left"  # it has ended: it owns nothing, and none of its processes runs
    FAILED = "failed"  # it has ended by an error; the end of its lease frees its chunks


class Cause(StrEnum):
    """The event that made a peer change its state."""

    BUILT = "built"  # it is registered, and its net is built
    SYNCED = "synced"  # its weights are the consensus, or the job's first weights
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
    """A transition and its reason. ``state`` is the old state where the cause changes nothing."""

    state: State
    reason: str


def step(state: State, cause: Cause, detail: str = "") -> Step:
    """The state after ``cause``. A state without a transition for the cause stays: DRAINING after a lost lease."""
    reason = f"{cause.value}: {detail}" if detail else cause.value
    return Step(TRANSITIONS.get((state, cause), state), reason)
