"""The values that the API returns: peers, the status of a job, its jobs and events. Each draws itself in a notebook."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gossip_caffe.api.values.html import table, text
from gossip_caffe.cluster.figures import figures_of
from gossip_caffe.cluster.view import HEADINGS, duration, remarks, rows, words_of_test
from gossip_caffe.errors import NotFound
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.observe.log.status import PeerStatus
from gossip_caffe.observe.log.tested import ConsensusTest


@dataclass(frozen=True, slots=True)
class Peer:
    """A living peer. ``record``: the facts that it registered; ``status``: its live figures, None before the first."""

    name: str
    job: str
    record: PeerRecord
    status: PeerStatus | None = None

    @property
    def state(self) -> str:
        """Its state: "joining", "syncing", "training" or "draining"."""
        return self.record.state


class Peers(tuple[Peer, ...]):
    """The living peers of a job, sorted by name."""

    __slots__ = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(peer.name for peer in self)

    def named(self, name: str) -> Peer:
        """Return the peer of that name. Raises NotFound."""
        for peer in self:
            if peer.name == name:
                return peer
        raise NotFound(
            f"no peer {name!r} lives (alive: {', '.join(self.names) or 'none'})", remedy="name one of those"
        )

    def _repr_html_(self) -> str:
        headings = ("PEER", "STATE", "DEVICE", "ITER", "SAMPLES/S", "LOSS", "ADDRESS", "HOST", "PID")
        return table(headings, [_row(peer) for peer in self])


def _row(peer: Peer) -> tuple[str, ...]:
    figures = peer.status
    loss = "" if figures is None or figures.loss is None else f"{figures.loss:.4f}"
    return (
        peer.name,
        peer.state,
        peer.record.device,
        f"{figures.iteration:,}" if figures else "",
        f"{figures.samples_per_s:,.0f}" if figures else "",
        loss,
        peer.record.address,
        peer.record.host,
        str(peer.record.pid),
    )


@dataclass(frozen=True, slots=True)
class Status:
    """A job and its peers at one moment.

    - ``done_samples`` of ``budget_samples`` are trained, which is ``iteration`` of ``max_iter`` iterations.
    - ``loss``: the mean over the peers that train; ``learning_rate``: the highest; both None until a peer has trained.
    - ``samples_per_s``: of all peers; ``seconds_left``: infinite while the speed is unknown.
    - ``training``: the names of the peers that train. ``tested``: the newest test of the consensus.
    - ``finished``: the last checkpoint of a finished job; "" before. ``away``: the reason why etcd does not answer.
    - ``record``: all of it as a JSON object, as ``gossip-caffe cluster status --json`` prints it.
    """

    job: str
    done_samples: int
    budget_samples: int
    iteration: int
    max_iter: int
    loss: float | None
    learning_rate: float | None
    samples_per_s: float
    seconds_left: float
    training: tuple[str, ...]
    tested: ConsensusTest | None
    finished: str
    away: str
    record: Mapping[str, Any] = field(repr=False, compare=False, default_factory=dict)

    @property
    def share(self) -> float:
        """The trained share of the budget, 0 to 1."""
        return self.done_samples / self.budget_samples

    def words(self) -> str:
        """Return the status as one line."""
        if self.finished:
            return f"job {self.job}: finished, checkpoint {self.finished}"
        parts = [
            f"{self.share:.0%} of {self.budget_samples:,} samples",
            f"{self.samples_per_s:,.0f} samples/s",
        ]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        if not math.isinf(self.seconds_left):
            parts.append(f"{duration(self.seconds_left)} left")
        return f"job {self.job}: {', '.join(parts)}"

    def _repr_html_(self) -> str:
        record = dict(self.record)
        lines = [line for line in (words_of_test(record.get("tested") or {}), *remarks(record)) if line]
        said = "".join(f"<p>{text(line)}</p>" for line in lines)
        return table(HEADINGS, rows(record), self.words()) + said


def status_of(record: Mapping[str, Any], spec: JobSpec) -> Status:
    """Return the status in a supervisor's record (``Supervisor.status``), or in one of ``record_from_outside``."""
    figures = figures_of(dict(record), spec.budget_samples)
    finished = record["finished"]
    return Status(
        job=spec.name,
        done_samples=figures.done_samples,
        budget_samples=spec.budget_samples,
        iteration=spec.iteration_at(figures.done_samples),
        max_iter=spec.iteration_at(spec.budget_samples),
        loss=figures.loss,
        learning_rate=figures.learning_rate,
        samples_per_s=figures.samples_per_s,
        seconds_left=figures.seconds_left(spec.budget_samples),
        training=tuple(
            peer["peer"]
            for peer in record["peers"]
            if peer["running"] and (peer.get("status") or {}).get("state") == "training"
        ),
        tested=figures.tested,
        finished=str(finished["checkpoint"]) if finished is not None else "",
        away=str(record["etcd_away"]),
        record=record,
    )


def record_from_outside(
    job: str,
    etcd: str,
    statuses: Mapping[str, PeerStatus],
    *,
    finished: Mapping[str, Any] | None,
    tested: Mapping[str, Any] | None,
    away: str,
    refuses: str,
) -> dict[str, Any]:
    """Return a record like a supervisor's, of a job whose peers are anywhere."""
    return {
        "cluster": "",
        "job": job,
        "etcd": etcd,
        "etcd_away": away,
        "etcd_refuses": refuses,
        "finished": finished,
        "tested": tested,
        "troubles": [],
        "peers": [
            {"peer": name, "pid": 0, "running": True, "end": "", "cause": "", "status": asdict(status)}
            for name, status in sorted(statuses.items())
        ],
    }


@dataclass(frozen=True, slots=True)
class Job:
    """A job in etcd. ``spec``: its model, data, budget and settings.

    ``stopped``: the reason why it was stopped before its end, as a pruned trial is; "": it was not.
    """

    name: str
    finished: bool
    spec: JobSpec = field(repr=False)
    stopped: str = ""

    @property
    def state(self) -> str:
        """Its state as text: "open", "finished", or "stopped" with the reason."""
        if self.finished:
            return "finished"
        return f"stopped ({self.stopped})" if self.stopped else "open"

    @property
    def budget_samples(self) -> int:
        """The samples that all peers together train."""
        return self.spec.budget_samples

    @property
    def records(self) -> int:
        """The records of its data set."""
        return self.spec.data.records


class Jobs(tuple[Job, ...]):
    """All jobs in an etcd, sorted by name."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        listed = [(job.name, f"{job.budget_samples:,}", f"{job.records:,}", job.state) for job in self]
        return table(("JOB", "BUDGET (SAMPLES)", "RECORDS", "STATE"), listed)


@dataclass(frozen=True, slots=True)
class JobEvent:
    """A change of a job, as etcd shows it.

    ``kind``: "peer": ``subject`` went from state ``old`` to ``new`` ("" for no peer: it joined, or is gone);
    "checkpoint": the checkpoint ``subject`` was announced; "tested": ``test`` has the result; "finished": with the
    checkpoint ``subject``.
    """

    kind: str
    subject: str
    old: str = ""
    new: str = ""
    test: ConsensusTest | None = None

    def words(self) -> str:
        """Return the event as one line."""
        if self.kind == "peer":
            return f"{self.subject}: {self.old or 'not there'} → {self.new or 'gone'}"
        if self.test is not None:
            return f"test at iteration {self.test.iteration:,}: {self.test.words()}"
        return f"{self.kind}: {self.subject}"


def named_columns(values: Sequence[tuple[str, Any]]) -> list[tuple[str, str]]:
    """Return fields and values as the rows of a table."""
    return [(name, str(value)) for name, value in values]
