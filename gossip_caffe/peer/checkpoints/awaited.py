"""The thing that a peer waits for, in words: people see why a job at 100% has not ended."""

from __future__ import annotations

from dataclasses import dataclass

A_TEST = "a test"


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts for the decision.

    ``holds``: the solver holds between two steps; ``tests``: tests that are not made. ``trained``: the budget is
    trained, as far as this peer knows; ``settled``: the ledger says so, too; ``ended``: the job's end is recorded.
    ``stuck``: etcd takes no writes.
    """

    holds: bool = False
    tests: int = 0
    trained: bool = False
    settled: bool = False
    ended: bool = False
    stuck: bool = False


def awaited(facts: Facts) -> str:
    """Return the thing that a peer waits for; "" for nothing: it trains."""
    if facts.holds and facts.tests:
        return A_TEST
    if facts.ended:
        return _tests(facts.tests)
    if not (facts.trained or facts.settled):
        return ""
    if facts.stuck:
        return "etcd, which takes no writes"
    if not facts.settled:
        return "the settlement of the last chunks"
    return "the last checkpoint" + (f" and {_tests(facts.tests)}" if facts.tests else "")


def _tests(count: int) -> str:
    return "" if not count else A_TEST if count == 1 else f"{count} tests"
