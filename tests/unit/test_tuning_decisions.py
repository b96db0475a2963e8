"""What a worker of a study does next: each decision is a pure function, with its reason."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.errors import ExitCode
from gossip_caffe.tune.board.trial import Results, TestResult, TrialState
from gossip_caffe.tune.board.view import Board
from gossip_caffe.tune.work.decisions import (
    MOST_FAILURES,
    RETURN_S,
    After,
    Do,
    Me,
    PeerEnd,
    after_end,
    is_lost,
    next_move,
    trial_to_help,
)
from tests.tuning import bare_study, trial

STUDY = bare_study(trials=4, peers=2)
ME = Me("me")


def board(
    running: dict[int, str], ended: int = 0, helpers: dict[str, int] | None = None, stopped: str = ""
) -> Board:
    """Trials that run, each with its worker ("": none), after ``ended`` complete ones."""
    trials = {number: trial(number, STUDY, state=TrialState.COMPLETE, value=0.5) for number in range(ended)}
    trials |= {number: trial(number, STUDY) for number in running}
    claims = {number: worker for number, worker in running.items() if worker}
    return Board(trials, claims, helpers or {}, stopped)


def results(**values: float) -> dict[int, Results]:
    return {int(name[1:]): Results(0, (TestResult(1, 100, value),)) for name, value in values.items()}


def test_an_idle_worker_begins_a_trial_while_there_are_any() -> None:
    move = next_move(board({0: "w"}), STUDY, ME, {}, {})
    assert move.do is Do.BEGIN
    assert move.reason == "3 of 4 trials have not begun"


def test_a_trial_whose_worker_is_gone_comes_before_new_ones() -> None:
    seen = board({0: "", 1: "w"})
    assert next_move(seen, STUDY, ME, {0: RETURN_S}, {}).do is Do.TAKE_OVER
    waiting = next_move(seen, STUDY, ME, {0: RETURN_S - 0.1}, {})
    assert (waiting.do, waiting.trial) == (Do.WAIT, 0)
    assert not is_lost(0, seen, {0: RETURN_S - 0.1})
    assert not is_lost(1, seen, {1: 100.0})


def test_a_worker_without_a_trial_helps_the_most_promising_one() -> None:
    seen = board({2: "a", 3: "b"}, ended=2)
    move = next_move(seen, STUDY, ME, {}, results(t2=0.5, t3=0.7))
    assert (move.do, move.trial) == (Do.HELP, 3)
    assert move.reason == "the most promising of 2 (0.7)"
    assert next_move(seen, STUDY, Me("me", may_help=False), {}, {}).do is Do.WAIT


def test_helpers_spread_and_a_trial_has_only_so_many_peers() -> None:
    helped = board({2: "a", 3: "b"}, ended=2, helpers={"h": 3})
    move = trial_to_help(helped, STUDY, results(t2=0.5, t3=0.7), ME)
    assert move is not None
    assert move.trial == 2
    full = board({2: "a", 3: "b"}, ended=2, helpers={"h": 3, "i": 2})
    assert trial_to_help(full, STUDY, {}, ME) is None
    assert next_move(full, STUDY, ME, {}, {}).do is Do.WAIT


def test_a_helper_stays_and_leaves_when_it_can_lead() -> None:
    helping = Me("me", helps=3)
    seen = board({2: "a", 3: "b"}, ended=2, helpers={"me": 3, "you": 2})
    assert next_move(seen, STUDY, helping, {}, results(t2=0.9)).trial == 3
    opened = bare_study(trials=5, peers=2)
    assert next_move(seen, opened, helping, {}, {}).do is Do.BEGIN
    assert next_move(seen, opened, Me("you", helps=2), {}, {}).do is Do.HELP, "one opening, one helper"
    orphaned = board({2: "a", 3: ""}, ended=2, helpers={"a-first": 2, "me": 3})
    assert next_move(orphaned, STUDY, helping, {3: RETURN_S}, {}).do is Do.TAKE_OVER


def test_a_study_ends_when_all_trials_have_or_when_it_is_stopped() -> None:
    assert next_move(board({}, ended=4), STUDY, ME, {}, {}).do is Do.END
    assert next_move(board({0: "w"}, stopped="tune stop"), STUDY, ME, {}, {}).do is Do.END


def test_the_end_of_a_peer_has_a_meaning() -> None:
    one = trial(0, STUDY)
    killed = PeerEnd(-9)
    assert after_end(PeerEnd(0), one, 1, finished=True)[0] is After.COMPLETE
    assert after_end(killed, one, 1, finished=True)[0] is After.COMPLETE
    assert after_end(killed, one, 1, finished=False)[0] is After.START_AGAIN
    assert after_end(PeerEnd(ExitCode.MODEL, "no"), one, 1, finished=False) == (
        After.FAILED,
        "its peer ended (exit 7): no",
    )
    assert after_end(killed, one, MOST_FAILURES, finished=False)[0] is After.FAILED
    failed = PeerEnd(ExitCode.FAILED)
    assert after_end(failed, one, MOST_FAILURES, finished=False)[0] is After.START_OVER
    assert after_end(failed, trial(0, STUDY, attempt=2), MOST_FAILURES, finished=False)[0] is After.FAILED


def test_a_trial_that_diverges_is_pruned_so_that_the_search_learns_from_it() -> None:
    end = PeerEnd(ExitCode.MODEL, "training diverged: loss nan at iteration 14")
    assert after_end(end, trial(0, STUDY), 1, finished=False) == (After.PRUNED, end.cause)


workers = st.sampled_from(["", "a", "b", "me-not"])


@given(
    st.dictionaries(st.integers(0, 5), workers, max_size=6),
    st.dictionaries(st.sampled_from(["h1", "h2", "me"]), st.integers(0, 5)),
    st.booleans(),
    st.floats(0, 10),
)
def test_a_move_is_always_possible(
    running: dict[int, str], helpers: dict[str, int], may_help: bool, age: float
) -> None:
    seen = board(running, helpers=helpers)
    me = Me("me", helps=helpers.get("me"), may_help=may_help)
    study = bare_study(trials=5, peers=2)
    move = next_move(seen, study, me, dict.fromkeys(running, age), {})
    assert move.reason
    match move.do:
        case Do.TAKE_OVER:
            assert move.trial not in seen.claims
        case Do.BEGIN:
            assert len(seen.trials) < 5
        case Do.HELP:
            assert may_help
            assert move.trial in seen.running
        case Do.END:
            assert not seen.running
            assert len(seen.trials) >= 5
        case Do.WAIT:
            assert seen.running
