"""The training of a solver file on this machine: planned, run in a temporary cluster, and its result written."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from gossip_caffe.api.starting.gpus import gpu_of_rank, gpus_of
from gossip_caffe.api.starting.job_options import NewJob, named_after
from gossip_caffe.api.starting.new_job import Teller, read_spec
from gossip_caffe.api.values.result import Result
from gossip_caffe.checkpoint.formats.hdf5 import hdf5_can_be_written
from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.figures import Figures, figures_of
from gossip_caffe.cluster.state.options import ClusterOptions
from gossip_caffe.cluster.supervision.asked_snapshot import AskedSnapshot
from gossip_caffe.cluster.supervision.living_weights import LivingWeights
from gossip_caffe.cluster.supervision.rescue import Rescue
from gossip_caffe.cluster.supervision.result import end_of_unfinished
from gossip_caffe.cluster.supervision.snapshot_files import SnapshotFiles
from gossip_caffe.cluster.supervision.supervisor import Supervisor
from gossip_caffe.cluster.temporary import KEPT_DAYS, temporary_cluster
from gossip_caffe.cluster.view import Remembering
from gossip_caffe.errors import EnvironmentProblem, ExitCode, GossipCaffeError, UsageError
from gossip_caffe.job.prototxts.snapshots import PlannedSnapshots, snapshots_of
from gossip_caffe.job.relocation import DataRoot
from gossip_caffe.job.shuffling import in_caffes_order
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.membership.etcd.access.endpoints import parse_endpoints
from gossip_caffe.observe.log.following import LogFollower
from gossip_caffe.security.security import PLAIN, Security
from gossip_caffe.system.launch import Launch


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """The wish to train a solver file.

    ``peers``: None: one, or one for each of ``gpus`` ("0,1"). ``etcd``: endpoints as text; "": the training starts its
    own. ``job``: its name in that etcd; "": a new one. ``of_peers``: more arguments for each ``peer start``.
    ``security``: the identity of the training's processes. ``launch``: of MPI; this process is its rank 0, and the
    other ranks become peers of the training. ``started`` is called when they can, see ``ClusterOptions``.
    """

    solver: str
    peers: int | None = None
    gpus: str = ""
    new: NewJob = field(default_factory=NewJob)
    etcd: str = ""
    job: str = ""
    of_peers: tuple[str, ...] = ()
    metrics_listen: str = "none"
    engine: str = "pycaffe"
    security: Security = PLAIN
    launch: Launch | None = None
    started: Callable[[tuple[str, ...]], None] | None = None


@dataclass(frozen=True, slots=True)
class PlannedTraining:
    """A training that can start: its job was read and checked. ``tag``: a part of its cluster's name."""

    request: TrainRequest
    spec: JobSpec
    snapshots: PlannedSnapshots
    peers: int
    gpus: tuple[int, ...]
    endpoints: tuple[str, ...]
    tag: str


class Watcher(Protocol):
    """The audience of a training. Each method is called from the training's event loop."""

    def say(self, line: str) -> None:
        """Take one line of news."""
        ...

    def look(self, status: dict[str, Any]) -> None:
        """Take the cluster's newest status, as ``cluster status --json`` gives it."""
        ...

    def happened(self, event: Mapping[str, Any]) -> None:
        """Take an event from the log of one of the peers."""
        ...


def planned(request: TrainRequest, tell: Teller) -> PlannedTraining:
    """Read and check the job. Raises UsageError, ModelError, DataError or EnvironmentProblem; nothing is started yet.

    It may take seconds, and it runs an event loop of its own: call it in a thread where one runs already.
    """
    endpoints = parse_endpoints(request.etcd, request.security) if request.etcd else ()
    tag = secrets.token_hex(3)
    named = named_after(request.solver)
    # Only an etcd that others use may have a job of the same name.
    job = request.job or (f"{named}-{tag}" if request.etcd else named)
    gpus, peers = _devices(request)
    all_peers = max(peers, request.launch.size) if request.launch else peers
    checked = request.engine == "pycaffe"
    spec = read_spec(
        job, request.solver, request.new, checked=checked, on_gpus=bool(gpus), peers=all_peers, tell=tell
    )
    if all_peers == 1 and not any(
        entry.partition("=")[0].strip() == "shuffle" for entry in request.new.settings
    ):
        spec = in_caffes_order(spec)
    plan = snapshots_of(spec, default_prefix=str(Path(request.solver).with_suffix("")))
    if plan.hdf5 and not hdf5_can_be_written():
        news = "snapshot_format HDF5 needs h5py, which is not installed: the files are written as .caffemodel"
        tell.say(f"{news} (pip install 'gossip-caffe[hdf5]')")
        plan = dataclasses.replace(plan, hdf5=False)
    return PlannedTraining(request, spec, plan, peers, gpus, endpoints, tag)


def _devices(request: TrainRequest) -> tuple[tuple[int, ...], int]:
    """The GPUs of this process's peers, and the number of these peers."""
    if request.launch is None:
        return gpus_of(request.gpus, request.peers, 1, request.engine)
    if request.peers is not None:
        raise UsageError(
            f"--peers {request.peers}: each of the {request.launch.size} ranks that MPI has started is one peer",
            remedy="leave --peers out",
        )
    gpu = gpu_of_rank(request.gpus, request.launch.local, request.engine)
    return () if gpu is None else (gpu,), 1


@contextmanager
def opened(plan: PlannedTraining, watcher: Watcher, kinds: Container[str] = ()) -> Iterator[LocalTraining]:
    """Yield the training in a cluster that lasts as long as the block, within an event loop or before it.

    ``kinds``: the events of which ``watcher`` is told. Raises EnvironmentProblem for a folder that takes no snapshots.
    """
    request = plan.request
    with temporary_cluster(plan.tag) as state:
        files = SnapshotFiles(plan.snapshots, state.run, Path(request.solver).parent)
        files.check()
        options = ClusterOptions(
            state,
            plan.peers,
            plan.spec.name,
            plan.spec,
            plan.endpoints,
            request.engine,
            of_peers=(*request.of_peers, "--snapshots"),
            gpus=plan.gpus,
            gives_up=True,
            metrics_listen=request.metrics_listen,
            security=request.security,
            restart=request.started is not None,  # the other ranks go on, and need this process's etcd
            started=request.started,
        )
        yield LocalTraining(options, files, plan, watcher, kinds)


class LocalTraining:
    """A training in a cluster of this machine. ``supervisor``: of that cluster, once ``run`` has begun."""

    def __init__(
        self,
        options: ClusterOptions,
        files: SnapshotFiles,
        plan: PlannedTraining,
        watcher: Watcher,
        kinds: Container[str],
    ) -> None:
        self._options = options
        self._files = files
        self._plan = plan
        self._watcher = watcher
        self._happened = LogFollower(options.state.run / "events", kinds)
        self._figures = Figures()
        self._clock = SystemClock()
        self._failed = ""
        self.supervisor: Supervisor
        self.asked: AskedSnapshot

    @property
    def name(self) -> str:
        """The name of its cluster, by which ``gossip-caffe cluster`` finds it."""
        return self._options.state.name

    def begin(self) -> None:
        """Make the supervisor, within the event loop of ``run``."""
        self.supervisor = Supervisor(self._options, self._watcher.say)
        self.asked = AskedSnapshot(self.supervisor, self._files, self._clock, self._watcher.say)

    async def run(self) -> Result:
        """Run the cluster until the job is finished or interrupted. Raises GossipCaffeError when its peers fail."""
        supervisor, files, watcher = self.supervisor, self._files, self._watcher
        began = self._clock.monotonic()
        living = Rescue(supervisor, files)
        watcher.say(f"more peers, or fewer: gossip-caffe cluster scale N --name {self.name}")
        try:
            await supervisor.run(Remembering(self._look))
        except GossipCaffeError as error:
            raise self._with_folder(error) from None
        self._tell()  # the events since the last look
        self._look_at_snapshots()
        model = self._written(supervisor.checkpoint, living.newest)
        if files.elsewhere:
            watcher.say(files.elsewhere)
        # Peers that were asked to leave may have trained further than the last status shows.
        seen = self._plan.snapshots.iteration_at(self._figures.done_samples)
        of_model = [iteration for iteration, path in files.written.items() if path == model]
        iterations = max([*of_model] or [seen])
        max_iter = self._plan.snapshots.max_iter
        # The job is finished as well when the budget is trained and only the last checkpoint could not be written.
        finished = bool(supervisor.checkpoint) or (model is not None and iterations >= max_iter)
        if supervisor.gave_up and not finished:
            where = (
                f"the weights at iteration {iterations:,} are in {model}" if model else "nothing was learned"
            )
            problem = EnvironmentProblem(f"the job cannot be finished: {supervisor.gave_up}; {where}")
            raise self._with_folder(problem)
        return Result(
            finished=finished,
            iterations=iterations,
            seconds=self._clock.monotonic() - began,
            model=model,
            state=files.states.get(iterations) if model is not None else None,
            snapshots=tuple(path for _, path in sorted(files.written.items())),
            tested=self._figures.tested,
            lacks=supervisor.gave_up if not supervisor.checkpoint else "",
            code=ExitCode.OK if finished else end_of_unfinished(supervisor.down_reason),
        )

    def _look(self, status: dict[str, Any]) -> None:
        self._tell()
        self._figures = figures_of(status, self._plan.spec.budget_samples)
        self._watcher.look(status)
        self._look_at_snapshots()
        self.asked.look()
        self.supervisor.step_s = self._figures.seconds_of(self._plan.spec.samples_per_iteration)

    def _tell(self) -> None:
        for event in self._happened.new():
            self._watcher.happened(event)

    def _look_at_snapshots(self) -> None:
        files = self._files
        try:
            new = files.collect()
            for iteration, path in files.written.items():
                if path in new:
                    of = files.of_iteration[iteration]
                    self._watcher.say(
                        f"snapshot {path}" + (f" (of iteration {of:,})" if of != iteration else "")
                    )
        except EnvironmentProblem as error:
            if str(error) != self._failed:
                self._failed = str(error)
                self._watcher.say(self._failed)

    def _with_folder(self, error: GossipCaffeError) -> GossipCaffeError:
        """Return the error. Without a remedy of its own it names the folder with the logs and the checkpoints."""
        if not error.remedy and self._options.state.folder.exists():
            error.remedy = f"see {self._options.state.folder}"
        return error

    def _written(self, checkpoint: str, living: LivingWeights | None) -> Path | None:
        """Write the result: the last checkpoint, else the weights of ``living`` peers, else the newest snapshot."""
        try:
            if checkpoint:
                return self._files.result(checkpoint)
            return self._files.newest() if living is None else self._files.save(living)
        except EnvironmentProblem as error:
            remedy = f"the weights are in {self._options.state.run}/checkpoints for {KEPT_DAYS} days"
            raise GossipCaffeError(error.message, remedy=remedy) from None


def data_root_arguments(data_roots: Sequence[str]) -> tuple[str, ...]:
    """Return the ``--data-root`` arguments for each peer. Raises UsageError when one is not OLD=NEW."""
    for root in data_roots:
        DataRoot.parse(root)
    return tuple(argument for root in data_roots for argument in ("--data-root", root))
