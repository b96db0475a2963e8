"""The state table of the claims, whole, and the page that shows it.

``python -m tests.unit.test_claim_states`` prints the table as the page has it.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from gossip_caffe.peer.work.claim_states import (
    ROWS,
    TABLE,
    Action,
    ClaimEvent,
    ClaimState,
    Poll,
    Row,
    decide,
    membership_event,
    step,
)
from gossip_caffe.shards.choice import PlanAge

PAGE = Path(__file__).parents[2] / "docs/internals/architecture.md"
WORKING = [state for state in ClaimState if not state.has_ended]


def states_in_words(row: Row) -> str:
    """The states of a row, by the shortest words that name them all."""
    groups = {
        "any": set(ClaimState),
        "any but ended": set(WORKING),
        "taking over": {state for state in ClaimState if state.takes_over},
        "not taking over": {state for state in ClaimState if not state.takes_over},
        "ended": {state for state in ClaimState if state.has_ended},
    }
    return next(words for words, states in groups.items() if states == set(row.states))


def next_in_words(row: Row) -> str:
    """The change of a row: the fact that is another afterwards."""
    pairs = [(old, new) for old, new in row.next.items() if old in row.states]
    if not pairs:
        return "the same"
    found = set()
    for old, new in pairs:
        if old.is_exhausted != new.is_exhausted:
            found.add("exhausted" if new.is_exhausted else "supplied")
        if old.takes_over != new.takes_over and not new.has_ended:
            found.add("taking over" if new.takes_over else "not taking over")
        if old.has_ended != new.has_ended:
            found.add("ended")
    assert len(found) == 1, "a row changes one fact"
    return found.pop()


def as_markdown() -> str:
    lines = ["| event | in the states | action | next | reason |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.event.value} | {states_in_words(row)} | {row.action.value} | {next_in_words(row)} | {row.reason} |"
        for row in ROWS
    ]
    return "\n".join(lines)


def test_every_pair_of_a_state_and_an_event_is_defined_once_or_refused_in_words() -> None:
    assert set(TABLE) == set(itertools.product(ClaimState, ClaimEvent))
    assert sum(len(row.states) for row in ROWS) == len(TABLE)
    assert all(found.reason for found in TABLE.values())
    for (state, event), found in TABLE.items():
        if found.action is Action.REFUSE:
            with pytest.raises(ValueError, match=f"in the state {state.value}: .*{found.reason}"):
                step(state, event)
        else:
            assert step(state, event) is found


def test_the_page_on_the_architecture_shows_the_table() -> None:
    assert as_markdown() in PAGE.read_text(), "print it with: python -m tests.unit.test_claim_states"


def test_every_state_is_reached_and_only_the_ended_ones_are_never_left() -> None:
    reached, frontier = {ClaimState.SUPPLIED}, [ClaimState.SUPPLIED]
    while frontier:
        state = frontier.pop()
        new = {found.state for (old, _), found in TABLE.items() if old is state} - reached
        reached |= new
        frontier += new
    assert reached == set(ClaimState)
    for (state, event), found in TABLE.items():
        assert found.state.has_ended == (state.has_ended or event is ClaimEvent.END)


def test_every_change_of_the_members_makes_a_new_plan_in_every_state() -> None:
    changes = (ClaimEvent.MEMBERS_CHANGED, ClaimEvent.PEER_GONE, ClaimEvent.PEER_UNSEEN)
    assert {TABLE[pair].action for pair in itertools.product(ClaimState, changes)} == {Action.PLAN_AGAIN}


def test_a_hungry_solver_gets_an_attempt_in_every_state_but_the_ended_ones() -> None:
    for state, plan, behind in itertools.product(ClaimState, PlanAge, (0, 2)):
        want = decide(state, Poll(3, plan=plan, left_behind=behind)).want
        assert (want >= 3) == (not state.has_ended)
        assert want <= 3 + (max(1, behind) if state.takes_over else 0)


def test_a_peer_that_rests_or_has_enough_claims_no_more_than_a_gone_peer_left_behind() -> None:
    for state, resting in itertools.product(ClaimState, (False, True)):
        lacking = 3 if resting else 0
        assert decide(state, Poll(lacking, resting, left_behind=2)).want == (2 if state.takes_over else 0)
        assert decide(state, Poll(lacking, resting, PlanAge.DUE)).want == int(state.takes_over)
        assert decide(state, Poll(lacking, resting)).want == 0


def test_a_takeover_ends_by_a_plan_that_leaves_nothing_behind_and_by_no_other_observation() -> None:
    taking = ClaimState.TAKING_OVER
    assert decide(taking, Poll(0)).state is ClaimState.SUPPLIED
    assert decide(taking, Poll(3)).state is ClaimState.SUPPLIED
    assert decide(taking, Poll(0, plan=PlanAge.OUTDATED)).state is taking
    assert decide(taking, Poll(0, plan=PlanAge.DUE)).state is taking
    assert decide(taking, Poll(0, left_behind=1)).state is taking


def test_only_an_attempt_changes_whether_the_claims_are_exhausted() -> None:
    attempts = {ClaimEvent.CHUNKS_CLAIMED, ClaimEvent.NONE_FREE, ClaimEvent.UNCLAIMED_FED}
    for (state, event), found in TABLE.items():
        if event not in attempts:
            assert found.state.is_exhausted == state.is_exhausted


@pytest.mark.parametrize(
    ("was", "now", "settled_in", "event"),
    [
        (None, 0.0, True, ClaimEvent.MEMBERS_CHANGED),
        (10.0, 20.0, False, ClaimEvent.MEMBERS_CHANGED),
        (10.0, None, True, ClaimEvent.PEER_GONE),
        (10.0, None, False, ClaimEvent.PEER_UNSEEN),
        (10.0, 10.0, True, None),
        (None, None, True, None),
    ],
)
def test_a_member_that_trains_no_more_is_taken_for_gone_by_a_peer_that_is_settled_in(
    was: float | None, now: float | None, settled_in: bool, event: ClaimEvent | None
) -> None:
    assert membership_event(was, now, settled_in=settled_in) is event


if __name__ == "__main__":
    print(as_markdown())
