"""When a peer claims chunks, as an explicit state machine: each step has its next state, its action and its reason.

             none is free                        a peer is gone                      the peer ends
  SUPPLIED ◀──────────────▶ EXHAUSTED     *  ◀────────────────────▶ TAKING_OVER*   * ─────────────▶ ENDED*
            some are claimed                  its chunks are taken over

A state holds two facts: the result of the newest attempt to claim (X or X_EXHAUSTED), and the aim of the peer
(claiming, taking over, ended). ROWS alone defines the step for each event; docs/internals/architecture.md shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from gossip_caffe.shards.choice import PlanAge


class ClaimState(StrEnum):
    """The state of one peer's claims. A state of the kind "exhausted" ends only by an attempt that claims chunks.

    Time does not end it: a peer that polls seldom would then never observe it, and never train its last short batch.
    """

    SUPPLIED = "supplied"  # the newest attempt claimed chunks, or none was made yet
    EXHAUSTED = "exhausted"  # the newest attempt found no free chunk: short batches are trained
    TAKING_OVER = "taking over"  # supplied; and a peer is gone, whose unfinished chunks are claimed at once
    TAKING_OVER_EXHAUSTED = "taking over, exhausted"
    ENDED = "ended"  # no chunk is claimed any more
    ENDED_EXHAUSTED = "ended, exhausted"

    @property
    def is_exhausted(self) -> bool:
        """True if the most recent attempt found no free chunk."""
        return self in _EXHAUSTED

    @property
    def takes_over(self) -> bool:
        """True while chunks of a peer that is gone may be left to claim."""
        return self in _TAKEOVER

    @property
    def has_ended(self) -> bool:
        """True once this peer claims no more."""
        return self in _ENDED


class ClaimEvent(StrEnum):
    """An event that reaches the claims of one peer."""

    # from the view of the members
    MEMBERS_CHANGED = "the members changed"
    PEER_GONE = "a peer is gone"  # it died, or it leaves
    PEER_UNSEEN = (
        "a peer is unseen"  # its record is missing, while this peer registers again or has just done so
    )
    # from a poll, while a peer that is gone may have left chunks
    PLAN_DUE = "the plan is due"
    PLAN_NOT_DUE = "the plan is not due"
    LEFT_BEHIND = "chunks are left behind"
    ALL_TAKEN_OVER = "all is taken over"
    # from a poll
    HUNGRY = "the solver lacks chunks"
    FED = "the solver has enough"
    RESTING = "the pause is not over"
    HUNGRY_WITHOUT_STORE = "the solver lacks chunks, the store is away"
    # from an attempt
    CHUNKS_CLAIMED = "chunks were claimed"
    NONE_CLAIMED = "none was claimed"
    NONE_FREE = "none is free"
    UNCLAIMED_FED = "unclaimed chunks were fed"
    NONE_PLANNED = "none is planned"
    STORE_FAILED = "the store failed"
    LEASE_LOST = "the lease is lost"
    # from the peer
    END = "the peer ends"


class Action(StrEnum):
    """The action of one step."""

    NOTHING = "nothing"
    PLAN_AGAIN = "plan again"
    CLAIM_LACKING = "claim the chunks that the solver lacks"
    CLAIM_FOR_PLAN = "claim one chunk more than it lacks"
    CLAIM_LEFT_BEHIND = "claim the chunks left behind, and those it lacks"
    TRAIN_UNCLAIMED = "train planned chunks without a claim"
    TRY_AGAIN = "try again at once"
    REST = "rest until the chooser's next look"
    PAUSE = "pause, then try again"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Row:
    """``event``, in each of ``states``: the action, its reason, and the next state of those states that change."""

    event: ClaimEvent
    states: tuple[ClaimState, ...]
    action: Action
    reason: str
    next: Mapping[ClaimState, ClaimState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClaimStep:
    """The next state, and the action with its reason."""

    state: ClaimState
    action: Action
    reason: str


_S = ClaimState
_E = ClaimEvent
_EXHAUSTED = (_S.EXHAUSTED, _S.TAKING_OVER_EXHAUSTED, _S.ENDED_EXHAUSTED)
_TAKEOVER = (_S.TAKING_OVER, _S.TAKING_OVER_EXHAUSTED)
_ENDED = (_S.ENDED, _S.ENDED_EXHAUSTED)
_PLAIN = (_S.SUPPLIED, _S.EXHAUSTED)
_CLAIMS = (*_PLAIN, *_TAKEOVER)
_ANY = tuple(ClaimState)
_TAKES_OVER = {_S.SUPPLIED: _S.TAKING_OVER, _S.EXHAUSTED: _S.TAKING_OVER_EXHAUSTED}
_TOOK_OVER = {new: old for old, new in _TAKES_OVER.items()}
_EMPTY = {
    _S.SUPPLIED: _S.EXHAUSTED,
    _S.TAKING_OVER: _S.TAKING_OVER_EXHAUSTED,
    _S.ENDED: _S.ENDED_EXHAUSTED,
}
_FOUND = {new: old for old, new in _EMPTY.items()}
_ENDS = {
    _S.SUPPLIED: _S.ENDED,
    _S.TAKING_OVER: _S.ENDED,
    _S.EXHAUSTED: _S.ENDED_EXHAUSTED,
    _S.TAKING_OVER_EXHAUSTED: _S.ENDED_EXHAUSTED,
}
_NO_ONE_GONE = "this peer takes nothing over"
_CLAIMS_NO_MORE = "this peer ends: it claims no more"

ROWS: tuple[Row, ...] = (
    Row(
        _E.MEMBERS_CHANGED, _ANY, Action.PLAN_AGAIN, "a peer trains now, or at another speed: the shards move"
    ),
    Row(
        _E.PEER_GONE,
        _CLAIMS,
        Action.PLAN_AGAIN,
        "its unfinished chunks are free: they are claimed although this peer has enough queued",
        _TAKES_OVER,
    ),
    Row(_E.PEER_GONE, _ENDED, Action.PLAN_AGAIN, "the other peers take over: this peer claims no more"),
    Row(
        _E.PEER_UNSEEN,
        _ANY,
        Action.PLAN_AGAIN,
        "after an outage of etcd all records vanish and come back: a missing member means nothing before this peer "
        "has had a lease for a TTL again",
    ),
    Row(_E.PLAN_DUE, _TAKEOVER, Action.CLAIM_FOR_PLAN, "an attempt to claim makes the plan"),
    Row(
        _E.PLAN_NOT_DUE,
        _TAKEOVER,
        Action.NOTHING,
        "not all of many peers plan for one event at once: only hunger counts",
    ),
    Row(
        _E.LEFT_BEHIND,
        _TAKEOVER,
        Action.CLAIM_LEFT_BEHIND,
        "the new plan assigns these chunks to this peer, and to no other",
    ),
    Row(
        _E.ALL_TAKEN_OVER,
        _TAKEOVER,
        Action.NOTHING,
        "the new plan leaves no chunk behind here: only hunger counts",
        _TOOK_OVER,
    ),
    *(
        Row(event, (*_PLAIN, *_ENDED), Action.REFUSE, _NO_ONE_GONE)
        for event in (_E.PLAN_DUE, _E.PLAN_NOT_DUE, _E.LEFT_BEHIND, _E.ALL_TAKEN_OVER)
    ),
    Row(_E.HUNGRY, _CLAIMS, Action.CLAIM_LACKING, "the solver has less than half of its work ahead"),
    Row(_E.HUNGRY, _ENDED, Action.NOTHING, _CLAIMS_NO_MORE),
    Row(
        _E.FED,
        _ANY,
        Action.NOTHING,
        "at least half of the work ahead is queued; chunks claimed further ahead would be lost for long by a death",
    ),
    Row(_E.RESTING, _ANY, Action.NOTHING, "every chunk within reach was owned or done a moment ago"),
    Row(
        _E.HUNGRY_WITHOUT_STORE,
        _CLAIMS,
        Action.TRAIN_UNCLAIMED,
        "peers whose views agreed have plans that do not overlap; the chunks of a gone peer are not trained, for only "
        "the store knows their owners",
    ),
    Row(_E.HUNGRY_WITHOUT_STORE, _ENDED, Action.NOTHING, _CLAIMS_NO_MORE),
    Row(
        _E.CHUNKS_CLAIMED,
        _ANY,
        Action.TRY_AGAIN,
        "they are fed; there may be more",
        _FOUND,
    ),
    Row(
        _E.NONE_CLAIMED,
        _ANY,
        Action.TRY_AGAIN,
        "the attempt listed the ledger, or other peers were faster: free chunks may exist",
    ),
    Row(
        _E.NONE_FREE,
        _ANY,
        Action.REST,
        "every chunk within reach is owned or done: a short batch is trained rather than waited for",
        _EMPTY,
    ),
    Row(_E.UNCLAIMED_FED, _ANY, Action.NOTHING, "they are fed, and claimed when the store answers", _FOUND),
    Row(
        _E.NONE_PLANNED, _ANY, Action.NOTHING, "the shard is used up: only the store knows other free chunks"
    ),
    Row(_E.STORE_FAILED, _ANY, Action.PAUSE, "the store is away: the attempt is due again when it answers"),
    Row(_E.LEASE_LOST, _ANY, Action.NOTHING, "the task of the lease registers this peer again"),
    Row(_E.END, _ANY, Action.NOTHING, "the peer leaves, or the job is finished", _ENDS),
)


def _expanded(rows: tuple[Row, ...]) -> dict[tuple[ClaimState, ClaimEvent], ClaimStep]:
    """Every pair with its step. Raises ValueError where two rows define one pair."""
    table: dict[tuple[ClaimState, ClaimEvent], ClaimStep] = {}
    for row in rows:
        for state in row.states:
            if (state, row.event) in table:
                raise ValueError(f"two rows define ({state.name}, {row.event.name})")
            table[state, row.event] = ClaimStep(row.next.get(state, state), row.action, row.reason)
    return table


TABLE: Mapping[tuple[ClaimState, ClaimEvent], ClaimStep] = _expanded(ROWS)


def step(state: ClaimState, event: ClaimEvent) -> ClaimStep:
    """The step that follows ``event``. Raises ValueError, with the reason, where the table refuses the pair."""
    found = TABLE[state, event]
    if found.action is Action.REFUSE:
        raise ValueError(f"{event.value}, in the state {state.value}: {found.reason}")
    return found


def membership_event(was: float | None, now: float | None, *, settled_in: bool) -> ClaimEvent | None:
    """The event in a change of one member's weight in the plan; a weight is None while the member does not train.

    ``settled_in``: see Claiming.is_settled_in. Returns None where the plan stays as it is.
    """
    if was == now:
        return None
    if now is not None:
        return ClaimEvent.MEMBERS_CHANGED
    return ClaimEvent.PEER_GONE if settled_in else ClaimEvent.PEER_UNSEEN


@dataclass(frozen=True, slots=True)
class Poll:
    """The observations of one poll.

    ``lacking``: the number of chunks that the solver lacks; ``resting``: the pause after an empty attempt is not over.
    ``plan`` and ``left_behind`` (chunks) count only while the state takes over.
    """

    lacking: int
    resting: bool = False
    plan: PlanAge = PlanAge.CURRENT
    left_behind: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """The next state, and the number of chunks to claim now (0: none) with its reason."""

    state: ClaimState
    want: int
    reason: str


def decide(state: ClaimState, poll: Poll) -> Decision:
    """How many chunks to claim now: those that the solver lacks, and those that a peer left that is gone.

    Chunks left behind do not wait until this peer has trained its queue. No chunk beyond them is claimed for that
    reason: where peers die fast, the others would claim further and further ahead.
    """
    lacking = 0 if poll.resting else poll.lacking
    if state.takes_over:
        taken = step(state, _takeover_event(poll))
        if taken.action is Action.CLAIM_FOR_PLAN:
            return Decision(taken.state, lacking + 1, taken.reason)
        if taken.action is Action.CLAIM_LEFT_BEHIND:
            return Decision(taken.state, lacking + poll.left_behind, taken.reason)
        state = taken.state
    fed = ClaimEvent.RESTING if poll.resting else ClaimEvent.FED
    found = step(state, ClaimEvent.HUNGRY if lacking else fed)
    return Decision(found.state, lacking if found.action is Action.CLAIM_LACKING else 0, found.reason)


def _takeover_event(poll: Poll) -> ClaimEvent:
    if poll.plan is PlanAge.DUE:
        return ClaimEvent.PLAN_DUE
    if poll.left_behind:
        return ClaimEvent.LEFT_BEHIND
    return ClaimEvent.PLAN_NOT_DUE if poll.plan is PlanAge.OUTDATED else ClaimEvent.ALL_TAKEN_OVER
