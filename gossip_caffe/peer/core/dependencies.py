"""The dependencies of one peer: its job, and every part of its environment, real or in memory."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.pull import FileClient
from gossip_caffe.checkpoint.url_store import UrlStore
from gossip_caffe.clock import Clock, SystemClock
from gossip_caffe.gossip.policy.contact import Contact, NoContact
from gossip_caffe.gossip.protocol.ports import Offload
from gossip_caffe.gossip.protocol.transport import Answerer, Transport
from gossip_caffe.gossip.transport.mpi.ranks import NoRanks, Ranks
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.membership.etcd.store import Store
from gossip_caffe.membership.keys import JobKeys, keys_of
from gossip_caffe.observe.log.events import EventLog, MemoryLog
from gossip_caffe.observe.log.ignored import Ignored
from gossip_caffe.peer.core.certificates import CertificateWatch
from gossip_caffe.peer.core.lifecycle import GRACE_S
from gossip_caffe.peer.core.overseer import Overseer, Trouble
from gossip_caffe.peer.core.strategy import MakeStrategy
from gossip_caffe.shards.epochs import Epochs
from gossip_caffe.shards.planner import Planner
from gossip_caffe.solver.evaluation.evaluation import Evaluator
from gossip_caffe.solver.gpu.memory_gauge import GpuGauge
from gossip_caffe.solver.probing.probe import GradientProbe

_BY_DEFAULT = Ignored(print, MemoryLog(), SystemClock())


@dataclass(frozen=True, slots=True)
class PeerDependencies:
    """The dependencies of one peer. Most variables that hold them are named ``world``.

    * ``serve`` lets an answerer answer the offers of other peers from now on.
    * ``folder`` holds this peer's checkpoints; ``files`` reads files of other peers' checkpoints.
    * ``say`` prints a line for people. ``said`` holds the lines of ``say_once``.
    * ``strategy`` makes the strategy by which peers share what they learn.
    * ``evaluator`` tests weights; None where nothing can test them.
    * ``probe`` measures the job's first gradients; None where the solver is not made of the job's own net.
    * ``local_spec`` is the job with the paths of this machine; None when the job's own paths are right here.
    * ``offload`` runs long arithmetic outside of the event loop's thread; None: it runs in that thread.
    * ``remote_store`` is the job's store of checkpoints, which does not end with its peers; None: the job has none.
    * ``planner`` may be shared by several peers of one process.
    * ``gauge`` measures the used memory of the GPU on which this peer trains; None on a CPU.
    * ``snapshots`` is a folder for snapshots at exactly the solver's iterations; None where no process collects them.
    * ``ignored`` notes the records of the store that this peer does not believe; by default by ``warn`` and ``log``.
    * ``overseer`` is the connection to the supervisor that started this peer, which shows people each warning.
    * ``contact`` notes which of the other peers answer.
    * ``ranks`` are the peers of this peer's launch to which weights go by MPI.
    * ``grace_s``: the seconds that this peer has for leaving.
    * ``certificates`` follows the files of this peer's certificate; None: it has none. ``authenticated``: every
      caller has shown a certificate.
    * ``is_script``: the solver is a user's script, whose net may be another one than the job's.
    """

    spec: JobSpec
    store: Store
    transport: Transport
    serve: Callable[[Answerer], None]
    folder: CheckpointFolder
    files: FileClient
    clock: Clock
    rng: random.Random
    log: EventLog
    say: Callable[[str], None]
    strategy: MakeStrategy
    evaluator: Evaluator | None = None
    probe: GradientProbe | None = None
    local_spec: JobSpec | None = None
    offload: Offload | None = None
    remote_store: UrlStore | None = None
    planner: Planner = field(default_factory=Planner)
    gauge: GpuGauge | None = None
    snapshots: Path | None = None
    ignored: Ignored = _BY_DEFAULT
    overseer: Overseer = field(default_factory=Overseer)
    contact: Contact = field(default_factory=NoContact)
    ranks: Ranks = field(default_factory=NoRanks)
    grace_s: float = GRACE_S
    is_script: bool = False
    certificates: CertificateWatch | None = None
    authenticated: bool = False
    said: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.ignored is _BY_DEFAULT:
            object.__setattr__(self, "ignored", Ignored(self.warn, self.log, self.clock))

    def warn(self, line: str) -> None:
        """Say a line that a person should see, and tell it to the supervisor. It begins with this peer's name."""
        self.say(line)
        self.overseer.send(Trouble(line))

    def say_once(self, line: str) -> None:
        """Print a line for people, unless this peer has printed exactly that line before."""
        if line not in self.said:
            self.said.add(line)
            self.say(line)

    @property
    def keys(self) -> JobKeys:
        """The keys of the job in the store."""
        return keys_of(self.spec.name)

    @property
    def epochs(self) -> Epochs:
        """The epochs and chunks of the job's budget."""
        return Epochs.of(self.spec)
