"""The decisions of a worker, as pure functions: what it does next, which trial it helps, and what an end means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from gossip_caffe.errors import ExitCode
from gossip_caffe.solver.loop import DIVERGED
from gossip_caffe.tune.board.trial import Results, TrialRecord
from gossip_caffe.tune.board.view import Board
from gossip_caffe.tune.study.spec import Objective, StudySpec

RETURN_S = 3.0
"""A trial without a claim waits this long for its worker, which may only have been without etcd for a while."""
MOST_FAILURES = 5
"""A peer that ended this often, without a test between, fails its trial."""
MOST_ATTEMPTS = 3
"""The jobs of one trial at the most: it starts over when its checkpoints are gone."""


class Do(StrEnum):
    """The next thing that a worker without a trial of its own does."""

    TAKE_OVER = "take over"
    BEGIN = "begin"
    HELP = "help"
    WAIT = "wait"
    END = "end"


@dataclass(frozen=True, slots=True)
class Move:
    """The next thing that a worker does, with the number of the trial, and the reason."""

    do: Do
    trial: int = -1
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Me:
    """The worker that decides. ``helps``: the trial that it helps in; None: it is idle. ``may_help``: ``--join``.

    ``avoids``: the trials in which its peer failed again and again.
    """

    name: str
    helps: int | None = None
    may_help: bool = True
    avoids: frozenset[int] = frozenset()


def is_lost(number: int, board: Board, unclaimed_for_s: Mapping[int, float]) -> bool:
    """True if a running trial has had no worker for RETURN_S: its worker died, or left.

    ``unclaimed_for_s``: number of a running trial without a claim → the seconds for which it has had none.
    """
    trial = board.trials.get(number)
    return (
        trial is not None
        and not trial.state.is_end
        and number not in board.claims
        and unclaimed_for_s.get(number, 0.0) >= RETURN_S
    )


def next_move(
    board: Board,
    study: StudySpec,
    me: Me,
    unclaimed_for_s: Mapping[int, float],
    results: Mapping[int, Results],
) -> Move:
    """Choose the next move of a worker that leads no trial.

    Openings (trials to take over or to begin) go to idle workers, and to as many helpers as there are openings.
    """
    if board.stopped:
        return Move(Do.END, reason=f"the study was stopped: {board.stopped}")
    if (opening := _opening(board, study, me, unclaimed_for_s)) is not None:
        return opening
    if not board.running:
        return Move(Do.END, reason=f"all {study.trials} trials have ended")
    if me.may_help:
        return _help(board, study, me, results)
    return Move(Do.WAIT, reason=f"{len(board.running)} trials run, and this worker does not help (--no-join)")


def _opening(board: Board, study: StudySpec, me: Me, unclaimed_for_s: Mapping[int, float]) -> Move | None:
    """A trial to take over or to begin, if there is one for this worker."""
    lost = [number for number in sorted(board.running) if is_lost(number, board, unclaimed_for_s)]
    if me.helps in lost:
        return Move(Do.TAKE_OVER, me.helps or 0, "its worker is gone, and this one helps there")
    left_to_begin = max(0, study.trials - len(board.trials))
    helpers = sorted(board.helpers)
    if me.helps is not None and me.name in helpers and helpers.index(me.name) >= len(lost) + left_to_begin:
        return None
    if lost:
        return Move(Do.TAKE_OVER, lost[0], "its worker is gone")
    if me.helps is None and (unclaimed := sorted(set(board.running) - set(board.claims))):
        # Trials that wait for a worker come before new ones: else a study whose workers die often only begins trials.
        return Move(Do.WAIT, unclaimed[0], "it has no worker, and may get its own back")
    if left_to_begin:
        return Move(Do.BEGIN, reason=f"{left_to_begin} of {study.trials} trials have not begun")
    return None


def _help(board: Board, study: StudySpec, me: Me, results: Mapping[int, Results]) -> Move:
    if me.helps in board.running:
        return Move(Do.HELP, me.helps if me.helps is not None else -1, "it helps there already")
    chosen = trial_to_help(board, study, results, me)
    if chosen is None:
        return Move(Do.WAIT, reason="every running trial has as many peers as it may have")
    return Move(Do.HELP, chosen.trial, chosen.reason)


def trial_to_help(board: Board, study: StudySpec, results: Mapping[int, Results], me: Me) -> Move | None:
    """The running trial that an idle worker joins: of those with the fewest peers the most promising one.

    None when each has ``study.peers`` peers, or none is led by another worker.
    """
    peers = {
        number: 1 + len([helper for helper in board.helpers_of(number) if helper != me.name])
        for number in board.running
        if number in board.claims and board.claims[number] != me.name and number not in me.avoids
    }
    open_ = [number for number, count in peers.items() if count < study.peers]
    if not open_:
        return None
    fewest = min(peers[number] for number in open_)
    ranked = promising([number for number in open_ if peers[number] == fewest], results, study.objective)
    newest = results[ranked[0]].newest if ranked[0] in results else None
    value = f"{newest:.4g}" if newest is not None else "without a result yet"
    return Move(Do.HELP, ranked[0], f"the most promising of {len(open_)} ({value})")


def promising(numbers: list[int], results: Mapping[int, Results], objective: Objective) -> list[int]:
    """The trials, the most promising first: by the newest result; those without one are last."""

    def key(number: int) -> tuple[bool, float, int]:
        newest = results[number].newest if number in results else None
        sign = -1.0 if objective.goal == "max" else 1.0
        return newest is None, sign * (newest or 0.0), number

    return sorted(numbers, key=key)


class After(StrEnum):
    """The step after the end of the peer of a trial's worker."""

    COMPLETE = "complete"
    START_AGAIN = "start again"
    START_OVER = "start over"
    PRUNED = "pruned"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class PeerEnd:
    """The end of a peer. ``code``: its exit code, or minus the number of a signal; ``cause``: its last line."""

    code: int
    cause: str = ""


def after_end(end: PeerEnd, trial: TrialRecord, failures: int, *, finished: bool) -> tuple[After, str]:
    """Choose the step after a peer's end, with the reason.

    ``failures``: the ends of this worker's peers in the trial without a test between, with this one.
    """
    if finished:
        return After.COMPLETE, "its job is finished"
    how = f"killed by signal {-end.code}" if end.code < 0 else f"exit {end.code}"
    why = f"its peer ended ({how})" + (f": {end.cause}" if end.cause else "")
    if end.code == ExitCode.MODEL and end.cause.startswith(DIVERGED):
        return After.PRUNED, end.cause  # a failed trial would teach the search nothing about its values
    if end.code in {ExitCode.MODEL, ExitCode.USAGE}:
        return After.FAILED, why
    if failures < MOST_FAILURES:
        return After.START_AGAIN, why
    if trial.attempt + 1 < MOST_ATTEMPTS and end.code == ExitCode.FAILED:
        return After.START_OVER, why
    return After.FAILED, why
