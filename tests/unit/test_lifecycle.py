"""The life of a peer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.peer.core.lifecycle import TRANSITIONS, Cause, State, step


def test_a_quiet_life_goes_from_joining_to_left() -> None:
    state = State.JOINING
    for cause in (Cause.BUILT, Cause.SYNCED, Cause.JOB_FINISHED, Cause.DRAINED):
        state = step(state, cause).state
    assert state is State.LEFT


def test_a_lost_lease_leads_back_to_training_after_registering_again() -> None:
    orphan = step(State.TRAINING, Cause.LEASE_LOST, "expired 0.3 s ago")
    assert orphan.state is State.ORPHANED
    assert orphan.reason == "lease lost: expired 0.3 s ago"
    assert step(orphan.state, Cause.REGISTERED_AGAIN).state is State.TRAINING


def test_a_lease_lost_on_the_way_to_the_weights_leads_back_to_the_start() -> None:
    again = step(State.SYNCING, Cause.LEASE_LOST, "not renewed in time")
    assert again.state is State.JOINING
    assert step(State.JOINING, Cause.LEASE_LOST).state is State.JOINING
    assert step(again.state, Cause.BUILT).state is State.SYNCING


@given(st.sampled_from([State.LEFT, State.FAILED]), st.sampled_from(Cause))
def test_nothing_happens_after_the_end(state: State, cause: Cause) -> None:
    assert step(state, cause).state is state


@given(st.sampled_from(State), st.sampled_from(Cause))
def test_a_peer_trains_only_after_it_has_the_consensus(state: State, cause: Cause) -> None:
    if step(state, cause).state is State.TRAINING and state is not State.TRAINING:
        assert (state, cause) in {(State.SYNCING, Cause.SYNCED), (State.ORPHANED, Cause.REGISTERED_AGAIN)}


def test_every_living_state_can_end() -> None:
    ends = {State.LEFT, State.FAILED}
    for state in set(State) - ends:
        reached, frontier = {state}, [state]
        while frontier:
            here = frontier.pop()
            for (old, _), new in TRANSITIONS.items():
                if old is here and new not in reached:
                    reached.add(new)
                    frontier.append(new)
        assert reached & ends == ends
