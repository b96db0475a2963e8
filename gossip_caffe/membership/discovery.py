"""The peers of a job as targets of Prometheus (HTTP service discovery).

A peer that trained and vanished without leaving stays a target for KEPT_S. It does not answer, so ``up`` is 0 and an
alert names it. A peer that leaves in good order is no target any more at once.

Prometheus cannot scrape a Unix socket. A peer of a local cluster is therefore a target at the address of the discovery
server itself, which passes the scrape on to the peer's socket.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from gossip_caffe.addresses import is_address
from gossip_caffe.clock import Clock
from gossip_caffe.errors import StoreError
from gossip_caffe.membership.etcd.store import Store
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import MembersView, PeerRecord
from gossip_caffe.observe.metrics.http import JSON, Request, Response, fetched, is_loopback
from gossip_caffe.system.unix_sockets import is_socket_in, socket_path

KEPT_S = 300.0
MOST_REMEMBERED = 4096
"""The number of lost peers, and of peers that were named, that are remembered: records may be a stranger's."""
TARGETS, PEERS, METRICS = "/targets", "/peers/", "/metrics"
_TRAINING = "training"


@dataclass(frozen=True, slots=True)
class Place:
    """The place from which peers are scraped: the ``host`` name of the machine, and its local cluster's ``sockets``.

    ``passes_on``: the address of a server that passes scrapes on to Unix sockets; empty: there is none.
    """

    host: str
    sockets: Path | None = None
    passes_on: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """A peer as Prometheus takes it. ``why_not``: why it cannot be scraped; "" when it can."""

    peer: str
    address: str
    labels: dict[str, str] = field(default_factory=dict)
    why_not: str = ""

    def to_record(self) -> dict[str, object]:
        """The target group of this peer alone."""
        return {"targets": [self.address], "labels": self.labels}


def target_of(job: str, record: PeerRecord, place: Place) -> Target:
    """The target of one peer, or the reason why it is none, as seen from ``place``."""
    labels = {"gossip_caffe_job": job, "peer": record.peer, "host": record.host, "device": record.device}
    if record.zone:
        labels["zone"] = record.zone
    address, why_not = record.metrics, ""
    if not address:
        why_not = "it serves no metrics"
    elif socket_path(address) is not None:
        if not is_socket_in(place.sockets, address):
            why_not = "its metrics are at a Unix socket of another cluster"
        elif place.passes_on:
            address = place.passes_on
            labels |= {"__metrics_path__": f"{PEERS}{record.peer}{METRICS}", "instance": record.peer}
    elif is_loopback(address) and record.host != place.host:
        why_not = f"its metrics are on loopback of {record.host}: start it with --metrics-listen HOST:PORT"
    return Target(record.peer, address, labels, why_not)


class Discovery:
    """The targets among the peers of one job, from its ``view``. ``say`` is called once for each peer that is none."""

    def __init__(
        self,
        store: Store,
        job: str,
        view: MembersView,
        place: Place,
        clock: Clock,
        say: Callable[[str], None],
    ) -> None:
        self._store = store
        self._job = job
        self._view = view
        self._place = place
        self._clock = clock
        self._say = say
        self._said: dict[tuple[str, str], None] = {}
        self._lost: dict[str, tuple[float, PeerRecord]] = {}
        view.listen(self._changed)

    def _changed(self, was: PeerRecord | None, now: PeerRecord | None) -> None:
        if now is not None:
            self._lost.pop(now.peer, None)
        elif was is not None and was.state == _TRAINING:
            self._lost[was.peer] = self._clock.monotonic(), was
            _drop_oldest(self._lost)

    async def targets(self, passes_on: str = "") -> list[Target]:
        """The peers that can be scraped, sorted by name: those that live, and those that were lost not long ago."""
        await self._forget()
        records = {name: record for name, (_, record) in self._lost.items()} | self._view.members
        place = Place(self._place.host, self._place.sockets, passes_on)
        found = [target_of(self._job, records[name], place) for name in sorted(records)]
        for target in found:
            about = target.peer, target.why_not
            if target.why_not and about not in self._said:
                self._said[about] = None
                _drop_oldest(self._said)
                self._say(f"{target.peer} cannot be scraped: {target.why_not}")
        return [target for target in found if not target.why_not]

    async def _forget(self) -> None:
        """Forget peers that were lost long ago, and all of them when the job is finished: then they have just ended."""
        now = self._clock.monotonic()
        self._lost = {name: lost for name, lost in self._lost.items() if now < lost[0] + KEPT_S}
        if self._lost:
            try:
                if await self._store.get(JobKeys(self._job).finished) is not None:
                    self._lost.clear()
            except StoreError:
                pass  # the store is away: the last known targets stay

    async def answer(self, request: Request) -> Response:
        """The answer to a request of Prometheus: the list of targets, or the metrics of one peer behind a socket."""
        if request.path == TARGETS:
            return await self._list(request)
        if request.path.startswith(PEERS) and request.path.endswith(METRICS):
            return await self._passed_on(request.path.removeprefix(PEERS).removesuffix(METRICS), request)
        if request.path in {"/", "/healthz"}:
            return Response.text(HTTPStatus.OK, TARGETS)
        return Response.text(HTTPStatus.NOT_FOUND)

    async def _list(self, request: Request) -> Response:
        if not self._view.known.is_set():
            return Response.text(HTTPStatus.SERVICE_UNAVAILABLE, "the members of the job are not known yet")
        host = request.headers.get("host", "")
        targets = await self.targets(host if is_address(host) else "")
        body = json.dumps([target.to_record() for target in targets], indent=1)
        return Response(HTTPStatus.OK, f"{body}\n".encode(), JSON)

    async def _passed_on(self, peer: str, request: Request) -> Response:
        record = self._view.members.get(peer)
        path = socket_path(record.metrics) if record is not None else None
        if record is None or path is None or not is_socket_in(self._place.sockets, record.metrics):
            return Response.text(HTTPStatus.NOT_FOUND)
        try:
            return await fetched(path, METRICS, request.headers.get("accept", ""))
        except (OSError, EOFError, ValueError):
            return Response.text(HTTPStatus.BAD_GATEWAY, f"{peer} does not answer")


def _drop_oldest(memory: dict[Any, Any]) -> None:
    if len(memory) > MOST_REMEMBERED:
        del memory[next(iter(memory))]
