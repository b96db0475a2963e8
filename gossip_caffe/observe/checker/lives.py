"""How peers lived and ended: never-wait, whole-checkpoint, coordinator-loss, clean-exit and loud-errors."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from gossip_caffe import errors
from gossip_caffe.observe.checker.finding import Finding, Line, Violation, concluded
from gossip_caffe.observe.checker.run import Life, Run
from gossip_caffe.observe.events import Event

STANDS_STILL_S = 10.0
"""A solver with work that makes no iteration for so long waits for something."""
ASLEEP_S = 5.0
"""Reports come every second: with longer gaps the whole peer was stopped, or its machine had no time for it."""
REBUILT_S = 60.0
"""A solver that was killed has another in its place by then: it builds its net anew, on a machine that may be busy."""
NAMED_ERRORS = frozenset(
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.GossipCaffeError)
)


# ── never-wait ────────────────────────────────────────────────────────────────────────────────────────────────────────


def never_wait(run: Run) -> Finding:
    """A solver that has batches steps on, and one that died is soon replaced."""
    return concluded(
        "never-wait",
        (violation for life in run.lives for violation in (*_standing_still(life), *_without_solver(life))),
        seen=lambda: any(_close_reports(life) >= STANDS_STILL_S for life in run.lives),
        holds="no solver that had batches stood still",
        unseen=f"no peer reported its progress for {STANDS_STILL_S:.0f} s, at most {ASLEEP_S:.0f} s apart",
    )


def _close_reports(life: Life) -> int:
    """How many reports came so soon after another that between the two a solver that stood still would be seen."""
    at = [event["m"] for event in life.of(Event.PROGRESS) if "m" in event]
    return sum(later - earlier <= ASLEEP_S for earlier, later in pairwise(at))


def _standing_still(life: Life) -> Iterator[Violation]:
    since: Line | None = None
    last: Line | None = None
    slowest_s = 0.0
    absent = False
    for event in life.of(Event.PROGRESS, Event.SOLVER_DIED, Event.SOLVER_BACK, Event.STATE):
        if event["event"] != Event.PROGRESS or "m" not in event:
            absent = event["event"] == Event.SOLVER_DIED
            since = last = None
            continue
        if absent:  # _without_solver looks at these
            continue
        moved = last is None or since is None or event["iteration"] != since["iteration"]
        if moved or (last is not None and event["m"] - last["m"] > ASLEEP_S) or event["stalled_share"] >= 0.5:
            if since is not None and event["iteration"] > since["iteration"]:
                slowest_s = max(slowest_s, event["m"] - since["m"])
            since = event
        elif since is not None and event["m"] - since["m"] > max(STANDS_STILL_S, 4 * slowest_s):
            lasted_s = event["m"] - since["m"]
            yield Violation(
                f"the solver of {life.peer} had batches and stood still for {lasted_s:.0f} s", (since, event)
            )
            since = event
        last = event


def _without_solver(life: Life) -> Iterator[Violation]:
    died: Line | None = None
    last: Line | None = None
    for event in life.of(Event.PROGRESS, Event.SOLVER_DIED, Event.SOLVER_BACK, Event.STATE):
        if event["event"] != Event.PROGRESS or "m" not in event:
            died = last = event if event["event"] == Event.SOLVER_DIED and "m" in event else None
            continue
        if died is None or last is None:
            continue
        if event["m"] - last["m"] > ASLEEP_S:
            died = event
        elif event["m"] - died["m"] > REBUILT_S:
            yield Violation(
                f"{life.peer} had no solver for {event['m'] - died['m']:.0f} s after one died", (died, event)
            )
            died = None
        last = event


# ── whole-checkpoint ──────────────────────────────────────────────────────────────────────────────────────────────────


def whole_checkpoint(run: Run) -> Finding:
    """What a peer begins from it has loaded and verified, and a checkpoint is the same everywhere."""
    kinds = (Event.JOINED, Event.RESUMED)
    return concluded(
        "whole-checkpoint",
        _checkpoint_violations(run),
        seen=lambda: any(event["checkpoint"] for life in run.lives for event in life.of(*kinds)),
        holds="every checkpoint that a peer began from was loaded whole, as it was made",
        unseen="no peer began from a checkpoint",
    )


def _checkpoint_violations(run: Run) -> Iterator[Violation]:
    digests: dict[str, Line] = {}
    for life in run.lives:
        for event in life.of(Event.FOUNDED, Event.CHECKPOINTED, Event.LOADED):
            if "digest" not in event:
                continue
            first = digests.setdefault(event["checkpoint"], event)
            if first["digest"] != event["digest"]:
                yield Violation(
                    f"checkpoint {event['checkpoint']} is not the same everywhere", (first, event)
                )
    for life in run.lives:
        loaded: set[str] = set()
        for event in life.of(Event.LOADED, Event.JOINED, Event.RESUMED):
            checkpoint = event["checkpoint"]
            if event["event"] == Event.LOADED:
                loaded.add(checkpoint)
            elif checkpoint and checkpoint not in loaded:
                yield Violation(
                    f"{life.peer} began from checkpoint {checkpoint}, which it had not loaded", (event,)
                )


# ── coordinator-loss ──────────────────────────────────────────────────────────────────────────────────────────────────


def coordinator_loss(run: Run) -> Finding:
    """Who loses the store, and its lease with it, trains on or joins anew, and registers again; nobody ends of it."""
    return concluded(
        "coordinator-loss",
        _loss_violations(run),
        seen=lambda: (
            bool(run.faults("etcd-away"))
            or any(True for life in run.lives for _ in life.of(Event.LEASE_LOST, Event.BORROWED))
        ),
        holds="whoever lost the store went on, and came back",
        unseen="nobody lost the store",
    )


_OF_THE_STORE = frozenset(
    name
    for name in NAMED_ERRORS
    if issubclass(getattr(errors, name), errors.StoreError) or name == "StoreError"
)
_ENDS_NOBODY = {"": frozenset[str](), "joined": _OF_THE_STORE - {"StoreError"}, "trained": _OF_THE_STORE}
"""Errors that must not end a peer, by what it has done. Before it could register it may end by any: whoever started it
is still there to be told. Before it trained it may where the store refuses something, or holds what nobody can read."""


def _loss_violations(run: Run) -> Iterator[Violation]:
    for life in run.lives:
        lost: Line | None = None
        did = ""
        for event in life.of(Event.STATE, Event.LEASE_LOST, Event.LEFT):
            if event["event"] == Event.STATE:
                did = {"syncing": did or "joined", "training": "trained"}.get(event["new"], did)
                lost = None if event["new"] in {"syncing", "training", "draining", "left"} else lost
            elif event["event"] == Event.LEASE_LOST:
                lost = event
            elif event.get("error") in _ENDS_NOBODY[did]:
                lines = (event,) if lost is None else (lost, event)
                yield Violation(f"{life.peer} {did} and ended because the store was away", lines)
                lost = None
        if lost is not None and life.left is not None and not run.finished:
            yield Violation(f"{life.peer} lost its lease and never registered again", (lost, life.left))


# ── clean-exit ────────────────────────────────────────────────────────────────────────────────────────────────────────


def clean_exit(run: Run) -> Finding:
    """Nothing is left behind, and who was not killed says goodbye: seen by whoever watched the run from outside."""
    return concluded(
        "clean-exit",
        _exit_violations(run),
        seen=lambda: any(line["event"] == "aftermath" for line in run.seen),
        holds="nothing was left behind, and whoever was not killed wrote a last word",
        unseen="nobody looked at what the run left behind",
    )


def _exit_violations(run: Run) -> Iterator[Violation]:
    aftermath = [line for line in run.seen if line["event"] == "aftermath"]
    for line in aftermath:
        left = {what: line.get(what) for what in ("processes", "shared_memory", "leases") if line.get(what)}
        if left:
            told = "; ".join(f"{what}: {', '.join(map(str, those))}" for what, those in left.items() if those)
            yield Violation(f"the run left behind {told}", (line,))
    if not aftermath:
        return
    killed = {line.get("peer") for line in run.faults("kill")}
    for life in run.lives:
        if life.left is None and life.peer not in killed:
            yield Violation(
                f"nobody killed {life.peer}, and it ended without a last word",
                (life.events[-1], aftermath[-1]),
            )


# ── loud-errors ───────────────────────────────────────────────────────────────────────────────────────────────────────


def loud_errors(run: Run) -> Finding:
    """Whoever ends by an error names one that a user can meet; anything else is a defect."""
    ended = [life.left for life in run.lives if life.left is not None and life.left.get("error")]
    return concluded(
        "loud-errors",
        (
            Violation(f"{line['peer']} ended by a defect: {line['error']} ({line['reason']})", (line,))
            for line in ended
            if line["error"] not in NAMED_ERRORS
        ),
        seen=lambda: bool(ended),
        holds="every peer that ended by an error named its cause",
        unseen="no peer ended by an error",
    )
