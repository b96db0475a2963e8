"""The wait of a new peer for etcd and for its job, where both are started at the same time as the peer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gossip_caffe.clock import Clock
from gossip_caffe.errors import GossipCaffeError, NotFound, StoreUnavailable
from gossip_caffe.membership.etcd.store import Store
from gossip_caffe.membership.jobs import job_or_only_one

AGAIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Patience:
    """The seconds that a peer waits for an etcd that does not answer, and for a job that etcd does not have."""

    etcd_s: float = 0.0
    job_s: float = 0.0

    def with_(self, error: GossipCaffeError) -> float:
        """Return the seconds that may pass until ``error`` is raised; 0.0 for an error that waiting does not mend."""
        if isinstance(error, StoreUnavailable):
            return self.etcd_s
        return self.job_s if isinstance(error, NotFound) else 0.0


async def wait_for_job(
    store: Store,
    job: str,
    patience: Patience,
    clock: Clock,
    say: Callable[[str], None],
    endpoints: Sequence[str],
) -> None:
    """Wait until etcd answers and has the job. The time of each wait counts from its own beginning.

    ``job``: "" for the only job in etcd.
    ``say`` is called once for each wait. Raises the error of the last attempt when its wait is over, and every other
    error at once.
    """
    began: dict[type[GossipCaffeError], float] = {}
    while True:
        try:
            await job_or_only_one(store, job)
        except GossipCaffeError as error:
            limit_s, now = patience.with_(error), clock.monotonic()
            if limit_s and type(error) not in began:
                began = {type(error): now}
                awaited = f"etcd at {','.join(endpoints)}"
                if isinstance(error, NotFound):
                    awaited = f"job {job}" if job else "a job"
                say(f"waits up to {limit_s:g} s for {awaited} ({error.message})")
            if now >= began.get(type(error), now) + limit_s:
                raise
            await clock.sleep(AGAIN_S)
        else:
            return
