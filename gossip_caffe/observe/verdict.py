"""The verdict on a run: every invariant by name, and the figures. Pure; reads event logs and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gossip_caffe.observe.checker.chunks import durable_done, full_coverage
from gossip_caffe.observe.checker.counting import Counters, counters
from gossip_caffe.observe.checker.exchanges import finite_weights, same_model, whole_half
from gossip_caffe.observe.checker.finding import Finding, Line, Standing
from gossip_caffe.observe.checker.lives import (
    clean_exit,
    coordinator_loss,
    loud_errors,
    never_wait,
    whole_checkpoint,
)
from gossip_caffe.observe.checker.ownership import single_owner
from gossip_caffe.observe.checker.run import Run
from gossip_caffe.observe.history import Budgeted

__all__ = ["CHECKS", "Counters", "Finding", "Standing", "Verdict", "verdict", "verdict_of", "verdict_on"]

CHECKS = (
    single_owner,
    full_coverage,
    durable_done,
    whole_half,
    never_wait,
    whole_checkpoint,
    same_model,
    finite_weights,
    coordinator_loss,
    clean_exit,
    loud_errors,
)
"""One for each invariant."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run says about every invariant, and its figures."""

    findings: tuple[Finding, ...]
    counters: Counters

    @property
    def broken(self) -> tuple[Finding, ...]:
        """The invariants that are broken."""
        return tuple(finding for finding in self.findings if finding.standing is Standing.BROKEN)

    def standing(self, invariant: str) -> Standing:
        """What the run says about one invariant. Raises KeyError for a name that is none."""
        return {finding.invariant: finding.standing for finding in self.findings}[invariant]

    def to_record(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "broken": [finding.invariant for finding in self.broken],
            "invariants": [asdict(finding) for finding in self.findings],
            "counters": asdict(self.counters),
        }


def verdict_of(run_dir: Path, job: Budgeted | None = None) -> Verdict:
    """The verdict on the logs in ``run_dir``/events and on ``run_dir``/observer.jsonl, where there is one.

    ``job``: what there was to train; None: what the logs say. Raises NotFound when there are no logs.
    """
    return verdict_on(Run.of_folder(run_dir, job))


def verdict(
    logs: Mapping[str, Iterable[Line]], job: Budgeted | None = None, seen: Iterable[Line] = ()
) -> Verdict:
    """The verdict on each peer's events, in the order in which it wrote them, and on what an observer saw."""
    return verdict_on(Run.of_logs(logs, job, list(seen)))


def verdict_on(run: Run) -> Verdict:
    """The verdict on a history that is read already."""
    return Verdict(tuple(check(run) for check in CHECKS), counters(run))
