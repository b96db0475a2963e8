"""Checks of the lives of peers.

They are ``never-wait``, ``whole-checkpoint``, ``coordinator-loss``, ``clean-exit`` and ``loud-errors``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from gossip_caffe import errors
from gossip_caffe.observe.checker.finding import Finding, Violation, concluded
from gossip_caffe.observe.history.run import Life, Line, Run
from gossip_caffe.observe.log.events import Event

STANDS_STILL_S = 10.0
"""A solver that has batches and makes no iteration for this many seconds waits for something."""
ASLEEP_S = 5.0
"""Reports come every second. Longer gaps mean that the whole peer was frozen, or got no CPU time."""
REBUILT_S = 60.0
"""Seconds until a killed solver is replaced: the new one builds its net again, perhaps on a busy machine."""
NAMED_ERRORS = frozenset(
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.GossipCaffeError)
)


# ── never-wait ────────────────────────────────────────────────────────────────────────────────────────────────────────


def never_wait(run: Run) -> Finding:
    """Check that a solver with batches makes iterations, and that a dead solver is soon replaced."""
    return concluded(
        "never-wait",
        (
            violation
            for life in run.lives
            for violation in (
                *(() if _waits_by_choice(life) else _standing_still(life)),
                *_without_solver(life),
            )
        ),
        seen=lambda: any(_close_reports(life) >= STANDS_STILL_S for life in run.lives),
        holds="no solver that had batches stood still",
        unseen=f"no peer reported its progress for {STANDS_STILL_S:.0f} s, at most {ASLEEP_S:.0f} s apart",
    )


def _waits_by_choice(life: Life) -> bool:
    """Whether the solver of a life waits for rounds: the metric of that wait is the judge of it, not this check."""
    return next(life.of(Event.STARTED), {}).get("strategy") == "sync"


def _close_reports(life: Life) -> int:
    """The number of reports that follow another so closely that a solver standing still between the two would show."""
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
        if absent:  # _without_solver checks these
            continue
        moved = last is None or since is None or event["iteration"] != since["iteration"]
        moved = moved or event.get("testing", False)  # a lone peer holds for a test, as Caffe does
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
    """Check that a peer begins only from a checkpoint that it loaded and verified, and that all copies are equal."""
    kinds = (Event.JOINED, Event.RESUMED)
    return concluded(
        "whole-checkpoint",
        _checkpoint_violations(run),
        seen=lambda: any(event["checkpoint"] for life in run.lives for event in life.of(*kinds)),
        holds="every peer that began from a checkpoint had loaded it whole, as it was made",
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
    """Check that no peer ends because the store is away.

    A peer that loses the store, and its lease with it, goes on training or joins again, and registers again.
    """
    return concluded(
        "coordinator-loss",
        _loss_violations(run),
        seen=lambda: (
            bool(run.faults("etcd-away"))
            or any(True for life in run.lives for _ in life.of(Event.LEASE_LOST, Event.BORROWED))
        ),
        holds="every peer that lost the store went on, and registered again",
        unseen="no peer lost the store",
    )


_OF_THE_STORE = frozenset(
    name
    for name in NAMED_ERRORS
    if issubclass(getattr(errors, name), errors.StoreError) and name != "StoreRefused"
)
_ENDS_NOBODY = {"": frozenset[str](), "joined": _OF_THE_STORE - {"StoreError"}, "trained": _OF_THE_STORE}
"""Errors that must not end a peer, by its progress.

Before it could register it may end by any error: the user who started it still sees the message. Before it trained it
may end where the store refuses a request, or holds a record that cannot be parsed.
"""


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
    """Check that a run leaves nothing behind, and that every peer that was not killed logged ``left``.

    It needs the log of an observer of the whole run.
    """
    return concluded(
        "clean-exit",
        _exit_violations(run),
        seen=lambda: any(line["event"] == "aftermath" for line in run.seen),
        holds="nothing was left behind, and every peer that was not killed wrote a last word",
        unseen="no observer checked for leftovers of the run",
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
                f"no fault killed {life.peer}, and it ended without a last word",
                (life.events[-1], aftermath[-1]),
            )


# ── loud-errors ───────────────────────────────────────────────────────────────────────────────────────────────────────


def loud_errors(run: Run) -> Finding:
    """Check that a peer that ends by an error names a user's error.

    Any other error is a defect, unless it was injected.
    """
    ended = [life.left for life in run.lives if life.left is not None and life.left.get("error")]
    dealt = {(line.get("peer"), line.get("error")) for line in run.faults("exception")}
    return concluded(
        "loud-errors",
        (
            Violation(f"{line['peer']} ended by a defect: {line['error']} ({line['reason']})", (line,))
            for line in ended
            if line["error"] not in NAMED_ERRORS and (line["peer"], line["error"]) not in dealt
        ),
        seen=lambda: bool(ended),
        holds="every peer that ended by an error named its cause",
        unseen="no peer ended by an error",
    )
