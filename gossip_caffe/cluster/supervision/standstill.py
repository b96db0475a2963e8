"""The decision when a cluster gives up a job that it cannot finish, saves its peers' weights, and ends."""

from __future__ import annotations

from dataclasses import dataclass

ETCD_GONE_S = 30.0
"""The time that the cluster's own etcd may be dead, in spite of restarts, before the cluster gives up."""
TROUBLED_S = 20.0
"""The time that a trained job may lack its last checkpoint when a peer reports why it cannot be written."""
UNTROUBLED_S = 600.0
"""The same time when no peer reports a reason: to write a large model to a slow disk takes long."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The facts for the decision. ``trained``: the budget is trained; ``finished``: the last checkpoint is recorded.

    ``etcd_gone``: the reason why etcd is dead; ``trouble``: a trouble with a disk; "": none.
    """

    trained: bool
    finished: bool
    etcd_gone: str = ""
    trouble: str = ""


class Standstill:
    """Decides from one status after another; it keeps the times since when a fault lasts."""

    def __init__(self) -> None:
        self._etcd_gone_at: float | None = None
        self._trained_at: float | None = None

    def why(self, seen: Seen, now_s: float) -> str:
        """Return the reason why the job can no longer be finished; "" while it can. ``now_s``: the clock, s."""
        self._etcd_gone_at = _since(self._etcd_gone_at, now_s, lasts=bool(seen.etcd_gone))
        self._trained_at = _since(self._trained_at, now_s, lasts=seen.trained and not seen.finished)
        if self._etcd_gone_at is not None and now_s - self._etcd_gone_at >= ETCD_GONE_S:
            return f"etcd cannot be started again ({seen.etcd_gone})"
        patience_s = TROUBLED_S if seen.trouble or seen.etcd_gone else UNTROUBLED_S
        if self._trained_at is not None and now_s - self._trained_at >= patience_s:
            why = seen.trouble or seen.etcd_gone
            return "the last checkpoint cannot be written" + (f" ({why})" if why else "")
        return ""


def _since(before: float | None, now_s: float, *, lasts: bool) -> float | None:
    """Return the time at which a fault began, while it lasts; None when it does not last."""
    if not lasts:
        return None
    return now_s if before is None else before
