"""The view of jobs of ``import gossip_caffe``: each function waits for its twin in ``gossip_caffe.aio``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.api import checkpoints, connection
from gossip_caffe.api.checking import Checks
from gossip_caffe.api.checking import check as aio_check
from gossip_caffe.api.checkpoints import HEADINGS, OnBytes
from gossip_caffe.api.evaluating import Evaluation
from gossip_caffe.api.file_evaluation import evaluate as aio_evaluate
from gossip_caffe.api.own_loop import LOOP
from gossip_caffe.api.train_options import JobOptions
from gossip_caffe.api.values.html import table
from gossip_caffe.api.values.net_weights import CaffeNet, load_blobs
from gossip_caffe.api.values.shards_view import Shards
from gossip_caffe.api.values.views import JobEvent, Jobs, Peers, Status
from gossip_caffe.checkpoint.pull import silent
from gossip_caffe.errors import NotFound
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.membership.discovery import Target
from gossip_caffe.security.security import Security


class Checkpoint:
    """An announced checkpoint: an average of the peers' weights, verified whenever it is fetched."""

    def __init__(self, twin: checkpoints.Checkpoint) -> None:
        self._twin = twin

    @property
    def name(self) -> str:
        """Its name, which begins with its progress in samples."""
        return self._twin.name

    @property
    def job(self) -> str:
        """The name of its job."""
        return self._twin.job

    @property
    def iteration(self) -> int:
        """The job's progress when it was made, in iterations."""
        return self._twin.iteration

    @property
    def progress_samples(self) -> int:
        """The job's progress when it was made, in samples."""
        return self._twin.progress_samples

    @property
    def made_at(self) -> float:
        """The time at which it was made, in seconds since 1970."""
        return self._twin.made_at

    @property
    def holders(self) -> dict[str, str]:
        """The peers that hold it: peer → address."""
        return self._twin.holders

    def pull(self, folder: str | Path = "checkpoints", on_bytes: OnBytes = silent) -> Path:
        """Fetch it into a folder of its name within ``folder``. Returns that folder.

        A whole copy that is there already is not fetched again. ``on_bytes`` is called with the bytes that are here
        and the bytes of all files, in another thread. Raises CheckpointRefused when no holder has it whole, NotFound
        when it is no longer announced.
        """
        return LOOP.call(self._twin.pull(folder, on_bytes))

    def export(self, prefix: str | Path) -> list[Path]:
        """Write PREFIX.caffemodel and PREFIX.solverstate, from which plain Caffe continues. Returns the written files.

        A checkpoint without momentum has no .solverstate. Raises NotFound for a folder that does not exist.
        """
        return LOOP.call(self._twin.export(prefix))

    def weights(self) -> dict[tuple[str, int], NDArray[np.float32]]:
        """Return its weights: (layer, number of the blob) → flat values, float32."""
        return LOOP.call(self._twin.weights())

    def load_into(self, net: CaffeNet) -> tuple[str, ...]:
        """Copy its weights into a ``caffe.Net``, by layer name. Returns the names of the loaded layers.

        Raises ModelError, before anything is copied, when a blob of the net has another size.
        """
        return load_blobs(self.weights(), net)  # in this thread: Caffe's GPU mode belongs to a thread

    def __repr__(self) -> str:
        return repr(self._twin)

    def _repr_html_(self) -> str:
        return self._twin._repr_html_()


class Checkpoints(tuple[Checkpoint, ...]):
    """The announced checkpoints of a job, the newest first."""

    __slots__ = ()

    def latest(self) -> Checkpoint:
        """Return the newest. Raises NotFound when there is none yet."""
        if not self:
            raise NotFound("the job has no checkpoint yet", remedy="try again when its peers train")
        return self[0]

    def named(self, wanted: str) -> Checkpoint:
        """Return the checkpoint whose name begins with ``wanted``. Raises NotFound, which names all checkpoints."""
        found = checkpoints.Checkpoints(entry._twin for entry in self)
        found.job = self.latest().job
        return Checkpoint(found.named(wanted))

    def _repr_html_(self) -> str:
        return table(HEADINGS, [entry._twin.row() for entry in self])


class Connection:
    """The jobs in an etcd, seen from outside. Made by ``connect``; use it in a ``with`` block, or ``close`` it.

    Every method but ``jobs`` is about one job: that of ``connect(job=…)`` or of ``job()``, else the only one in etcd.
    Each raises StoreUnavailable when etcd does not answer, and NotFound or UsageError when the job is not clear.
    """

    def __init__(self, twin: connection.Connection) -> None:
        self._twin = twin

    def jobs(self) -> Jobs:
        """Return all jobs."""
        return LOOP.call(self._twin.jobs())

    def job(self, name: str) -> Connection:
        """Return a view of another job in the same etcd."""
        return Connection(self._twin.job(name))

    def spec(self) -> JobSpec:
        """Return the job's model, data, budget and settings."""
        return LOOP.call(self._twin.spec())

    def create_job(self, name: str, solver: str | Path, **options: Unpack[JobOptions]) -> bool:
        """Store a job of a solver file, which any machine can then train. Returns False when it is there already.

        Caffe builds its nets once before. Raises UsageError, ModelError or DataError for a wrong file; Conflict when
        another job has the name.
        """
        return LOOP.call(self._twin.create_job(name, solver, **options))

    def peers(self, *, of_all_jobs: bool = False) -> Peers:
        """Return the living peers, of the job or ``of_all_jobs``."""
        return LOOP.call(self._twin.peers(of_all_jobs=of_all_jobs))

    def status(self) -> Status:
        """Return the progress of the job, and the figures of its peers."""
        return LOOP.call(self._twin.status())

    def watch(self, every_s: float = connection.LOOK_EVERY_S) -> Iterator[Status]:
        """Yield the status every ``every_s`` seconds, for the last time when the job is finished."""
        return LOOP.iterate(self._twin.watch(every_s))

    def events(self, timeout_s: float | None = None) -> Iterator[JobEvent]:
        """Yield what is there (peers, checkpoints, the newest test), then each change, until the job is finished.

        ``timeout_s``: the end comes as well when nothing happens for so long.
        """
        return LOOP.iterate(self._twin.events(), timeout_s)

    def shards(self) -> Shards:
        """Return the open epochs: which chunks are owned by which peer, done, and left."""
        return LOOP.call(self._twin.shards())

    def checkpoints(self) -> Checkpoints:
        """Return the announced checkpoints, the newest first."""
        return Checkpoints(Checkpoint(entry) for entry in LOOP.call(self._twin.checkpoints()))

    def evaluate(
        self,
        checkpoint: str = "",
        *,
        live: bool = False,
        weights: str | Path = "",
        iterations: int = 0,
        data_roots: Sequence[str] = (),
        allow_code: bool | None = None,
    ) -> Evaluation:
        """Run the job's TEST phase on this machine, which reads the test data; peers are not disturbed.

        Tested is the newest checkpoint, or the one whose name begins with ``checkpoint``; with ``live`` the mean of the
        peers that train now; with ``weights`` a .caffemodel file. ``iterations``: passes of each net; 0: test_iter.
        ``data_roots``: "OLD=NEW" for paths that differ on this machine. ``allow_code``: run code that the job names;
        None: $GOSSIP_CAFFE_ALLOW_CODE, else only with the etcd of a local cluster, or one that authenticates its users.
        Raises ModelError when the job has no test, or Caffe fails.
        """
        testing = self._twin.evaluate(
            checkpoint,
            live=live,
            weights=weights,
            iterations=iterations,
            data_roots=data_roots,
            allow_code=allow_code,
        )
        return LOOP.call(testing)

    def targets(self, say: Callable[[str], None] = lambda _: None) -> list[Target]:
        """Return the peers that Prometheus can scrape, as ``gossip-caffe discover`` lists them.

        ``say`` is told why each other peer cannot be scraped.
        """
        return LOOP.call(self._twin.targets(say))

    def stop_peer(self, name: str, *, wait: bool = True, by: str = "asked from Python") -> None:
        """Ask a peer, on any machine, to leave in good order: it shares its weights, and other peers go on.

        ``by``: the reason that the peer then reports. Raises NotFound when no such peer lives; GossipCaffeError when
        it has not left after 30 s.
        """
        LOOP.call(self._twin.stop_peer(name, wait=wait, by=by))

    def close(self) -> None:
        """Close the connection to etcd."""
        LOOP.call(self._twin.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def connect(
    etcd: str | None = None, *, job: str = "", cluster: str = "", security: Security | None = None
) -> Connection:
    """Connect to the etcd of jobs.

    ``etcd``: "host:port", several with commas; None: $GOSSIP_CAFFE_ETCD, else the etcd of a local cluster. ``cluster``:
    that of this name. ``job``: the job that is meant, "" for the only one. ``security``: the identity, of ``identity``;
    None: that of the environment. Raises StoreUnavailable when no endpoint answers, UsageError when none is known.
    """
    connected = connection.connect(etcd, job=job, cluster=cluster, security=security)
    return Connection(LOOP.call(connected))


def check(
    etcd: str | None = None,
    *,
    cluster: str = "",
    job: str | None = None,
    data_roots: Sequence[str] = (),
    allow_code: bool | None = None,
    security: Security | None = None,
) -> Checks:
    """Check that this machine has all that a peer needs, as ``gossip-caffe doctor`` does.

    With ``etcd`` or ``cluster``, which are those of ``connect``, each member of that etcd is checked, too. With
    ``job`` ("": the only one) the job's data, store and memory are checked from here, and the ports of its peers.
    ``data_roots``, ``allow_code``: as for ``Connection.evaluate``. Raises UsageError when etcd is not clear; a fault
    is a result.
    """
    checking = aio_check(
        etcd, cluster=cluster, job=job, data_roots=data_roots, allow_code=allow_code, security=security
    )
    return LOOP.call(checking)


def evaluate(solver: str | Path, weights: str | Path, *, iterations: int = 0) -> Evaluation:
    """Run the TEST phase of a solver file on a .caffemodel file, without a job and without etcd.

    ``iterations``: passes of each net; 0: the solver's test_iter. Raises ModelError when there is no test.
    """
    return LOOP.call(aio_evaluate(solver, weights, iterations=iterations))
