"""The verdict on a run: a finding for every invariant, and the figures. Pure: it depends on the event logs alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gossip_caffe.observe.checker.bounds import bounded_half
from gossip_caffe.observe.checker.chunks import durable_done, full_coverage
from gossip_caffe.observe.checker.counting import RunCounters, counters
from gossip_caffe.observe.checker.exchanges import finite_weights, same_model, whole_half
from gossip_caffe.observe.checker.finding import Finding, InvariantStatus
from gossip_caffe.observe.checker.lives import (
    clean_exit,
    coordinator_loss,
    loud_errors,
    never_wait,
    whole_checkpoint,
)
from gossip_caffe.observe.checker.orders import known_writer
from gossip_caffe.observe.checker.ownership import single_owner
from gossip_caffe.observe.checker.rounds import whole_round
from gossip_caffe.observe.checker.silence import no_silent_end
from gossip_caffe.observe.history.account import Budgeted
from gossip_caffe.observe.history.run import Line, Run

__all__ = [
    "CHECKS",
    "Finding",
    "InvariantStatus",
    "RunCounters",
    "Verdict",
    "verdict",
    "verdict_of",
    "verdict_on",
]

CHECKS = (
    single_owner,
    full_coverage,
    durable_done,
    whole_half,
    whole_round,
    never_wait,
    whole_checkpoint,
    same_model,
    finite_weights,
    bounded_half,
    known_writer,
    coordinator_loss,
    clean_exit,
    loud_errors,
    no_silent_end,
)
"""One check for each invariant."""

_IN_A_MISSING_PART: Mapping[Callable[[Run], Finding], str] = {
    single_owner: "claims and settlements",
    full_coverage: "training and settlements",
    durable_done: "training and exchanges",
    whole_half: "answers to exchanges",
    never_wait: "deaths of solvers",
    whole_checkpoint: "loaded checkpoints",
    same_model: "the peer's joining",
    bounded_half: "the peer's joining",
    known_writer: "checkpoints that the peer made",
    coordinator_loss: "registrations",
    clean_exit: "last words",
}
"""Check → the events in a missing part of a log without which the check would report violations that are none.

The other checks judge each event by itself, and are made on the parts that are there.
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The findings for all invariants, and the figures of the run.

    ``missing``: the missing and damaged parts of logs, a sentence each. With any of them the figures count only the
    parts that are there, and those of records are unknown.
    """

    findings: tuple[Finding, ...]
    counters: RunCounters
    missing: tuple[str, ...] = ()

    @property
    def broken(self) -> tuple[Finding, ...]:
        """The findings of the broken invariants."""
        return tuple(finding for finding in self.findings if finding.standing is InvariantStatus.BROKEN)

    def standing(self, invariant: str) -> InvariantStatus:
        """The result for one invariant. Raises KeyError for an unknown name."""
        return {finding.invariant: finding.standing for finding in self.findings}[invariant]

    def to_record(self) -> dict[str, Any]:
        """The verdict as a JSON-compatible record."""
        return {
            "broken": [finding.invariant for finding in self.broken],
            "missing": list(self.missing),
            "invariants": [asdict(finding) for finding in self.findings],
            "counters": asdict(self.counters),
        }


def verdict_of(run_dir: Path, work: Budgeted | None = None, job: str = "") -> Verdict:
    """The verdict on the logs in ``run_dir``/events and on ``run_dir``/observer.jsonl, if it exists.

    ``work``: the job's budget and data; None: taken from the logs. ``job``: the name of the job, "" for the only one.
    Raises NotFound when there are no logs of it, and UsageError when none of several jobs is named.
    """
    return verdict_on(Run.of_folder(run_dir, work, job))


def verdict(
    logs: Mapping[str, Iterable[Line]], job: Budgeted | None = None, seen: Iterable[Line] = ()
) -> Verdict:
    """The verdict on each peer's events, in the order of its log, and on an observer's events."""
    return verdict_on(Run.of_logs(logs, job, list(seen)))


def verdict_on(run: Run) -> Verdict:
    """The verdict on a history."""
    return Verdict(tuple(_judged(check, run) for check in CHECKS), counters(run), tuple(run.missing))


def _judged(check: Callable[[Run], Finding], run: Run) -> Finding:
    if not run.missing:
        return check(run)
    if lacks := _IN_A_MISSING_PART.get(check):
        why = f"{run.missing[0]}: it may hold {lacks}"
        return Finding(check.__name__.replace("_", "-"), InvariantStatus.UNSEEN, why)
    found = check(run)
    if found.standing is not InvariantStatus.HOLDS:
        return found
    return replace(found, reason=f"{found.reason}, in the parts that are there")
