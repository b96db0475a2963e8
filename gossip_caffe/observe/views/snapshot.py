"""A job at one moment, for views: its living peers with their figures."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from gossip_caffe.observe.log.status import PeerStatus
from gossip_caffe.observe.log.tested import ConsensusTest

TRAINING = "training"


@dataclass(frozen=True, slots=True)
class PeerView:
    """One living peer. ``incarnation``: differs between two peers that have the same name one after the other.

    ``share``: the part of the data that is planned for it, from 0 to 1; None unless it trains. ``status``: its newest
    figures; None before the first. ``insecure``: other machines reach it without a certificate.
    """

    peer: str
    state: str
    incarnation: str = ""
    device: str = "cpu"
    device_name: str = ""
    host: str = ""
    pid: int = 0
    address: str = ""
    insecure: bool = False
    zone: str = ""
    version: str = ""
    share: float | None = None
    status: PeerStatus | None = None

    @property
    def trains(self) -> bool:
        """True if it trains and has finished an iteration."""
        return self.state == TRAINING and self.status is not None and self.status.iteration > 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A job at the time ``wall`` (seconds since 1970). ``peers``: in natural order of their names.

    ``finished``: the job's last checkpoint; "" before its end. ``tested``: the newest test of the consensus.
    ``refuses``: the reason why etcd takes no writes, with the remedy; "" when it does.
    """

    job: str
    wall: float
    peers: tuple[PeerView, ...] = ()
    budget_samples: int = 0
    finished: str = ""
    tested: ConsensusTest | None = None
    refuses: str = ""

    @property
    def training(self) -> tuple[PeerView, ...]:
        """The peers that train."""
        return tuple(peer for peer in self.peers if peer.trains)

    @property
    def statuses(self) -> tuple[PeerStatus, ...]:
        """The newest figures of all peers that have some."""
        return tuple(peer.status for peer in self.peers if peer.status is not None)

    @property
    def done_samples(self) -> int:
        """Samples that the whole job has trained, as far as its living peers know."""
        if self.finished:
            return self.budget_samples
        known = [max(status.progress_samples, status.job_samples) for status in self.statuses]
        return min(max(known, default=0), self.budget_samples)

    @property
    def samples_per_s(self) -> float:
        """The speed of all peers together in the last seconds."""
        return sum(peer.status.samples_per_s for peer in self.training if peer.status is not None)

    @property
    def loss(self) -> float | None:
        """The mean loss of the peers that train; None before the first."""
        losses = [peer.status.loss for peer in self.training if peer.status is not None]
        known = [loss for loss in losses if loss is not None]
        return sum(known) / len(known) if known else None

    @property
    def seconds_left(self) -> float:
        """Seconds until the budget is trained; infinite while the speed is unknown."""
        left = self.budget_samples - self.done_samples
        speed = sum(peer.status.steady_samples_per_s for peer in self.training if peer.status is not None)
        if left <= 0:
            return 0.0
        return left / speed if speed > 0 else math.inf

    @property
    def checkpoint(self) -> str:
        """The newest checkpoint that a living peer knows; "" before the first. Names sort by progress."""
        return max((status.checkpoint for status in self.statuses), default="")

    @property
    def waits_for(self) -> str:
        """The things that peers wait for; "" for nothing."""
        return ", ".join(sorted({status.waits_for for status in self.statuses} - {""}))

    def to_record(self) -> dict[str, Any]:
        """The snapshot as a JSON object, for programs."""
        left_s = self.seconds_left
        return {
            "job": self.job,
            "wall": self.wall,
            "budget_samples": self.budget_samples,
            "done_samples": self.done_samples,
            "samples_per_s": self.samples_per_s,
            "loss": self.loss,
            "seconds_left": None if math.isinf(left_s) else left_s,
            "waits_for": self.waits_for,
            "finished": self.finished,
            "tested": None if self.tested is None else self.tested.to_record(),
            "refuses": self.refuses,
            "peers": [asdict(peer) for peer in self.peers],
        }


def natural(name: str) -> tuple[int, str]:
    """A key that sorts p2 before p10."""
    return len(name), name
