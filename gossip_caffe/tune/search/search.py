"""The search as a worker sees it: the next trial's values, reports of tests, and whether a trial goes on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from gossip_caffe.tune.board.trial import TrialRecord
from gossip_caffe.tune.study.parameters import Value


@dataclass(frozen=True, slots=True)
class Asked:
    """The next trial: its number, and the values of the searched parameters."""

    number: int
    values: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a trial ends early, and the reason."""

    prune: bool
    reason: str


class Search(Protocol):
    """The search of one study. Each method may raise StoreError; a call that is repeated changes nothing more."""

    async def ask(self, recorded: Collection[int]) -> Asked:
        """The next trial. One worker asks at a time.

        ``recorded``: the trials that have a record. A trial that the search began for a worker that died before it
        wrote the record is given out again.
        """
        ...

    async def report(self, number: int, mark: int, value: float) -> None:
        """Report the result of test number ``mark`` of a trial."""
        ...

    async def verdict(self, number: int) -> Verdict:
        """Whether a trial ends early, from the reported results of all trials."""
        ...

    async def tell(self, trial: TrialRecord) -> None:
        """Tell the end of a trial."""
        ...

    async def unfinished(self) -> frozenset[int]:
        """The trials whose end was not told."""
        ...
