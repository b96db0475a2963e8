"""A view of the jobs in an etcd, for asynchronous callers. Nothing of it disturbs a peer."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from gossip_caffe.api.checkpoints import Checkpoint, Checkpoints
from gossip_caffe.api.evaluating import (
    Evaluation,
    chosen_weights,
    evaluated,
    nets_to_test,
    weights_of_file,
)
from gossip_caffe.api.job_creation import created
from gossip_caffe.api.looking.discovering import targets_of
from gossip_caffe.api.looking.job_events import events_of
from gossip_caffe.api.places import endpoints, is_local, may_run_code
from gossip_caffe.api.train_options import JobOptions, new_job
from gossip_caffe.api.values.shards_view import Shards
from gossip_caffe.api.values.views import (
    Job,
    JobEvent,
    Jobs,
    Peer,
    Peers,
    Status,
    record_from_outside,
    status_of,
)
from gossip_caffe.checkpoint.ending import read_end
from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.supervision.job_status import job_status
from gossip_caffe.errors import GossipCaffeError, NotFound, UsageError
from gossip_caffe.job.code import check_code
from gossip_caffe.job.relocation import DataRoot, relocated
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.membership.discovery import Target
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.jobs import job_or_only_one, list_jobs, load_job
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.leave_requests import ask_to_leave, wait_until_gone
from gossip_caffe.membership.members import list_members
from gossip_caffe.membership.stops import why_stopped
from gossip_caffe.observe.log.ignored import Note, discard_note
from gossip_caffe.observe.log.status import PeerStatus
from gossip_caffe.peer.checkpoints.announcing import listed_for
from gossip_caffe.security.given import or_of_environment
from gossip_caffe.security.security import Security
from gossip_caffe.shards.epochs import Epochs
from gossip_caffe.shards.overview import read_overview

LEAVE_DEADLINE_S = 30.0
LOOK_EVERY_S = 1.0


class Connection:
    """The jobs in an etcd, seen from outside. Made by ``connect``.

    Every method but ``jobs`` is about one job: that of ``connect(job=…)`` or of ``job()``, else the only one in etcd.
    Each raises StoreUnavailable when etcd does not answer, and NotFound or UsageError when the job is not clear.
    ``ignored`` is called for each record that is not believed. ``ours``: the etcd is a local cluster's.
    """

    def __init__(
        self, store: EtcdStore, job: str = "", ignored: Note = discard_note, *, ours: bool = False
    ) -> None:
        self.store = store
        self._job = job
        self._ignored = ignored
        self._ours = ours
        self._spec: JobSpec | None = None

    async def jobs(self, unreadable: Callable[[GossipCaffeError], None] = lambda _: None) -> Jobs:
        """Return all jobs. ``unreadable`` is called for each that cannot be read, which is left out."""
        found = []
        for name in await list_jobs(self.store):
            try:
                spec = await load_job(self.store, name)
            except (UsageError, NotFound) as error:
                unreadable(error)
                continue
            end = await read_end(self.store, JobKeys(name), spec, self._ignored)
            stopped = await why_stopped(self.store, JobKeys(name))
            found.append(Job(name, end is not None and end.believed, spec, stopped))
        return Jobs(found)

    def job(self, name: str) -> Connection:
        """Return a view of another job in the same etcd."""
        return Connection(self.store, name, self._ignored, ours=self._ours)

    async def spec(self) -> JobSpec:
        """Return the job's model, data, budget and settings."""
        if self._spec is None:
            self._spec = await job_or_only_one(self.store, self._job)
        return self._spec

    async def _keys(self) -> JobKeys:
        return JobKeys((await self.spec()).name)

    async def create_job(self, name: str, solver: str | Path, **options: Unpack[JobOptions]) -> bool:
        """Store a job of a solver file, which any machine can then train. Returns False when it is there already.

        Caffe builds its nets once before. Raises UsageError, ModelError or DataError for a wrong file; Conflict when
        another job has the name.
        """
        return await created(self.store, name, str(solver), new_job(options))

    async def peers(self, *, of_all_jobs: bool = False) -> Peers:
        """Return the living peers, of the job or ``of_all_jobs``."""
        jobs = await list_jobs(self.store) if of_all_jobs else [(await self.spec()).name]
        return Peers([peer for job in jobs for peer in await self._peers_of(JobKeys(job))])

    async def _peers_of(self, keys: JobKeys) -> list[Peer]:
        records = await list_members(self.store, keys, self._ignored)
        statuses = {}
        for item in (await self.store.list(keys.statuses)).items:
            try:
                status = PeerStatus.from_json(item.value)
            except ValueError:
                continue  # a status of another version
            statuses[status.peer] = status
        return [Peer(record.peer, keys.job, record, statuses.get(record.peer)) for record in records]

    async def status(self) -> Status:
        """Return the progress of the job, and the figures of its peers."""
        spec = await self.spec()
        found = await job_status(self.store, JobKeys(spec.name))
        record = record_from_outside(
            spec.name,
            "",
            found.statuses,
            finished=found.finished,
            tested=found.tested,
            away=found.away,
            refuses=found.refuses,
        )
        return status_of(record, spec)

    async def watch(self, every_s: float = LOOK_EVERY_S) -> AsyncIterator[Status]:
        """Yield the status every ``every_s`` seconds, for the last time when the job is finished."""
        while True:
            status = await self.status()
            yield status
            if status.finished:
                return
            await asyncio.sleep(every_s)

    async def events(self) -> AsyncIterator[JobEvent]:
        """Yield what is there (peers, checkpoints, the newest test), then each change, until the job is finished."""
        async with aclosing(events_of(self.store, await self.spec(), self._ignored)) as events:
            async for event in events:
                yield event

    async def shards(self) -> Shards:
        """Return the open epochs: which chunks are owned by which peer, done, and left."""
        spec = await self.spec()
        return Shards(spec.name, await read_overview(self.store, JobKeys(spec.name), Epochs.of(spec)))

    async def checkpoints(self) -> Checkpoints:
        """Return the announced checkpoints, the newest first."""
        spec = await self.spec()
        listed = await listed_for(self.store, JobKeys(spec.name), spec.budget_samples, self._ignored)
        found = Checkpoints(Checkpoint(self.store, spec, entry, self._ignored) for entry in listed)
        found.job = spec.name
        return found

    async def evaluate(
        self,
        checkpoint: str = "",
        *,
        live: bool = False,
        weights: str | Path = "",
        iterations: int = 0,
        data_roots: Sequence[str] = (),
        allow_code: bool | None = None,
        on_pass: Callable[[int, int], None] | None = None,
    ) -> Evaluation:
        """Run the job's TEST phase on this machine, which reads the test data; peers are not disturbed.

        Tested is the newest checkpoint, or the one whose name begins with ``checkpoint``; with ``live`` the mean of the
        peers that train now; with ``weights`` a .caffemodel file. ``iterations``: passes of each net; 0: test_iter.
        ``data_roots``: "OLD=NEW" for paths that differ on this machine. ``allow_code``: run code that the job names;
        None: $GOSSIP_CAFFE_ALLOW_CODE, else only with the etcd of a local cluster, or one that authenticates its users.
        ``on_pass`` is called with (passes
        done, passes in all). Raises ModelError when the job has no test, or Caffe fails.
        """
        if sum(map(bool, (checkpoint, live, weights))) > 1:
            raise UsageError("checkpoint, live and weights exclude each other", remedy="give one of them")
        spec = await self.spec()
        allowed = await may_run_code(allow_code, self.store, ours=self._ours)
        roots = [DataRoot.parse(root) for root in data_roots]
        with tempfile.TemporaryDirectory(prefix="gossip-caffe-") as scratch:
            if weights:
                check_code(spec, allowed=allowed)
                chosen = weights_of_file(weights)
            else:
                chosen = await chosen_weights(
                    self.store,
                    spec,
                    Path(scratch),
                    checkpoint=checkpoint,
                    live=live,
                    allowed=allowed,
                    ignored=self._ignored,
                )
            nets = nets_to_test(relocated(spec, roots), iterations)
            test = partial(evaluated, spec, nets, chosen)
            return await (test(on_pass) if on_pass is not None else test())

    async def targets(self, say: Callable[[str], None] = lambda _: None) -> list[Target]:
        """Return the peers that Prometheus can scrape, as ``gossip-caffe discover`` lists them.

        ``say`` is told why each other peer cannot be scraped.
        """
        return await targets_of(self.store, (await self.spec()).name, say, self._ignored)

    async def stop_peer(self, name: str, *, wait: bool = True, by: str = "asked from Python") -> None:
        """Ask a peer, on any machine, to leave in good order: it shares its weights, and other peers go on.

        ``by``: the reason that the peer then reports. Raises NotFound when no such peer lives; GossipCaffeError when
        it has not left after LEAVE_DEADLINE_S seconds.
        """
        keys = await self._keys()
        asked = await ask_to_leave(self.store, keys, name, by)
        if asked is None:
            known = ", ".join((await self.peers()).names) or "none"
            raise NotFound(f"no peer {name!r} lives (alive: {known})", remedy="name one of those")
        if wait and not await wait_until_gone(self.store, keys, asked, SystemClock(), LEAVE_DEADLINE_S):
            raise GossipCaffeError(
                f"{name} of job {keys.job} (pid {asked.pid} on {asked.host}) was asked to leave, and has not left "
                f"within {LEAVE_DEADLINE_S:.0f} s",
                remedy="see its output; you can kill it: nothing is lost, and other peers train its data",
            )

    async def close(self) -> None:
        """Close the connection to etcd."""
        await self.store.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def connect(
    etcd: str | None = None,
    *,
    job: str = "",
    cluster: str = "",
    security: Security | None = None,
    ignored: Note = discard_note,
) -> Connection:
    """Connect to the etcd of jobs.

    ``etcd``: "host:port", several with commas; None: $GOSSIP_CAFFE_ETCD, else the etcd of a local cluster. ``cluster``:
    that of this name. ``job``: the job that is meant, "" for the only one. ``security``: the identity; None: that of
    the environment. ``ignored`` is called for records that are not believed. Raises StoreUnavailable when no endpoint
    answers, UsageError when none is known.
    """
    security = or_of_environment(security)
    where = await asyncio.to_thread(endpoints, etcd, cluster, security)
    store = EtcdStore(where, SystemClock(), random.Random(), security=security)
    connection = Connection(store, job, ignored, ours=is_local(",".join(where)))
    try:
        await store.version()  # an etcd that does not answer is told here
    except BaseException:
        await store.close()
        raise
    return connection
