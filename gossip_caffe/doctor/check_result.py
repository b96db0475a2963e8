"""The result of one check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gossip_caffe.errors import GossipCaffeError


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check.

    ``what``: the thing that was checked, for example "pycaffe". ``needed``: a peer cannot run while it is not ``good``.
    ``found``: its state, in words. ``remedy``: for the user, if it is not good.
    """

    what: str
    good: bool
    needed: bool
    found: str
    remedy: str = ""

    @classmethod
    def of_error(cls, what: str, error: GossipCaffeError, *, needed: bool = True) -> CheckResult:
        """The result of a check that ended with this error."""
        return cls(what, False, needed, error.message, error.remedy)

    @property
    def mark(self) -> str:
        """The state in one word, for a table."""
        return "ok" if self.good else "FAULT" if self.needed else "note"


def can_train(results: Sequence[CheckResult]) -> bool:
    """True if no check failed that a peer needs."""
    return all(result.good for result in results if result.needed)
