"""A cluster of this machine that keeps its folder, and goes on when it is brought up again: planned, and supervised."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from gossip_caffe.api.starting.gpus import gpus_of
from gossip_caffe.api.starting.job_options import PEERS_OF_A_CLUSTER, NewJob, named_after
from gossip_caffe.api.starting.metrics_address import metrics_of
from gossip_caffe.api.starting.new_job import Teller, read_spec
from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.state.folder import DEFAULT_NAME, ClusterState
from gossip_caffe.cluster.state.options import ClusterOptions
from gossip_caffe.cluster.supervision.rescue import Rescue
from gossip_caffe.cluster.supervision.snapshot_files import SnapshotFiles
from gossip_caffe.cluster.supervision.supervisor import Supervisor
from gossip_caffe.cluster.view import Remembering
from gossip_caffe.errors import ExitCode, UsageError
from gossip_caffe.job.prototxts.snapshots import snapshots_of
from gossip_caffe.membership.etcd.access.endpoints import parse_endpoints
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.jobs import only_job
from gossip_caffe.peer.core.address import listening
from gossip_caffe.peer.core.lifecycle import GRACE_S
from gossip_caffe.security.security import PLAIN, Security


@dataclass(frozen=True, slots=True)
class ClusterRequest:
    """The wish to bring up a cluster.

    ``name``: the cluster's. ``solver``: the job is made of this file; "": it is in etcd already. ``job``: its name; "":
    after the solver file, or the only one in etcd. ``peers``: None: PEERS_OF_A_CLUSTER, or one for each of ``gpus``
    ("0,1"). ``etcd``: endpoints as text; "": the cluster starts its own, which listens at ``etcd_listen`` ("": a Unix
    socket). ``of_peers``: more arguments for each ``peer start``. The others are those of ``ClusterOptions``.
    """

    name: str = DEFAULT_NAME
    solver: str = ""
    job: str = ""
    peers: int | None = None
    gpus: str = ""
    new: NewJob = field(default_factory=NewJob)
    etcd: str = ""
    etcd_listen: str = ""
    metrics_listen: str = ""
    of_peers: tuple[str, ...] = ()
    from_checkpoint: str = ""
    restart: bool = False
    grace_s: float = GRACE_S
    engine: str = "pycaffe"
    security: Security = PLAIN


class Shown(Protocol):
    """The audience of a cluster. Each method is called from its event loop."""

    def say(self, line: str) -> None:
        """Take one line of news."""
        ...

    def look(self, status: dict[str, Any]) -> None:
        """Take the cluster's newest status, as ``cluster status --json`` gives it."""
        ...


def planned_cluster(request: ClusterRequest, tell: Teller) -> ClusterOptions:
    """Read and check the wish. Nothing is started yet.

    It may take seconds, and it runs an event loop of its own. Raises UsageError, ModelError, DataError or
    EnvironmentProblem; Conflict when the cluster is up; StoreError when the job's name must be asked of an etcd that
    does not answer.
    """
    new, security = request.new, request.security
    if not request.solver and not request.job and not request.etcd:
        raise UsageError(
            "there is nothing to train", remedy="give --solver FILE, or --job NAME of a job in etcd"
        )
    if new.arguments and not request.solver:
        raise UsageError(f"{new.arguments[0]} belongs to a new job", remedy="give --solver FILE with it")
    if request.etcd and request.etcd_listen:
        raise UsageError(
            "--etcd-listen is for the etcd that this command starts, and --etcd names another",
            remedy="leave --etcd out, or --etcd-listen",
        )
    host, port = listening(request.etcd_listen, security) if request.etcd_listen else ("", 0)
    state = ClusterState(request.name)
    state.lock().close()  # raises at once when this cluster is up; the supervisor locks it again, for its lifetime
    endpoints = parse_endpoints(request.etcd, security) if request.etcd else ()
    job = request.job or (
        named_after(request.solver) if request.solver else asyncio.run(_only_job(endpoints, security))
    )
    gpus, peers = gpus_of(request.gpus, request.peers, PEERS_OF_A_CLUSTER, request.engine)
    metrics_listen = metrics_of(request.metrics_listen, peers)
    spec = None
    if request.solver:
        checked = request.engine == "pycaffe"
        spec = read_spec(
            job, request.solver, new, checked=checked, on_gpus=bool(gpus), peers=peers, tell=tell
        )
    return ClusterOptions(
        state,
        peers,
        job,
        spec,
        endpoints,
        request.engine,
        request.restart,
        request.of_peers,
        request.from_checkpoint,
        gpus=gpus,
        etcd_host=host,
        etcd_port=port,
        metrics_listen=metrics_listen,
        grace_s=request.grace_s,
        security=security,
    )


async def _only_job(endpoints: tuple[str, ...], security: Security) -> str:
    store = EtcdStore(endpoints, SystemClock(), random.Random(), security=security)
    try:
        return await only_job(store)
    finally:
        await store.close()


async def supervise(
    options: ClusterOptions, solver: str, shown: Shown, begun: Callable[[Supervisor], None]
) -> ExitCode:
    """Run the cluster until its job is finished, or it is taken down. Returns the exit code of the command.

    ``solver``: the job's solver file, "" for a job that was in etcd already: without it no weights of living peers are
    written when the job cannot be finished. ``begun`` gets the supervisor before it runs.
    """
    supervisor = Supervisor(options, shown.say)
    rescue = None
    if options.spec is not None:
        plan = snapshots_of(options.spec, default_prefix=str(Path(solver).with_suffix("")))
        files = SnapshotFiles(plan, options.state.run, Path(solver).parent)
        rescue = Rescue(supervisor, files, in_trouble=True)
    begun(supervisor)
    code = await supervisor.run(Remembering(shown.look))
    if rescue is not None and not supervisor.checkpoint and (living := rescue.newest) is not None:
        shown.say(f"the weights of {', '.join(living.contributors)} are in {files.save(living)}")
    if supervisor.checkpoint:
        shown.say(f"job {options.job} is finished: {supervisor.model}")
    return code
