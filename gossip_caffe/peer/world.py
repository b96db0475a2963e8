"""What one peer is given: its job, and everything outside of it, real or in memory."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.pull import FileClient
from gossip_caffe.checkpoint.url_store import UrlStore
from gossip_caffe.clock import Clock
from gossip_caffe.gossip.seams import Offload
from gossip_caffe.gossip.transport import Answerer, Transport
from gossip_caffe.job.spec import JobSpec
from gossip_caffe.membership.keys import JobKeys, keys_of
from gossip_caffe.membership.store import Store
from gossip_caffe.observe.events import EventLog
from gossip_caffe.peer.exchanging import pairwise
from gossip_caffe.peer.strategy import MakeStrategy
from gossip_caffe.shards.epochs import Epochs
from gossip_caffe.shards.planner import Planner
from gossip_caffe.solver.card_gauge import CardGauge
from gossip_caffe.solver.evaluation import Evaluator


@dataclass(frozen=True, slots=True)
class World:
    """The seams of the agent.

    ``serve`` lets an answerer answer offers from now on; ``folder`` keeps checkpoints, ``files`` reads those of
    others; ``say`` prints a line for people; ``evaluator`` tests weights, None where nothing can. ``spec_here`` is the
    job with the paths of this machine, when they are others. ``offload`` takes long arithmetic out of the event loop's
    thread; None: it stays there. ``elsewhere``: where the job keeps checkpoints beside its peers. ``strategy``: how
    learning is shared. ``planner`` may be that of others in the same process. ``gauge``: tells how full the card is on
    which this peer trains.
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
    evaluator: Evaluator | None = None
    spec_here: JobSpec | None = None
    offload: Offload | None = None
    elsewhere: UrlStore | None = None
    strategy: MakeStrategy = pairwise
    planner: Planner = field(default_factory=Planner)
    gauge: CardGauge | None = None

    @property
    def keys(self) -> JobKeys:
        """Where the job stands in the store."""
        return keys_of(self.spec.name)

    @property
    def epochs(self) -> Epochs:
        """The geometry of the job's work."""
        return Epochs.of(self.spec)
