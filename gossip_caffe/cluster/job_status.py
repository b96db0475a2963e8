"""What the store and a fleet say of a cluster's job and its peers, as JSON takes it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from gossip_caffe.cluster.fleet import Fleet
from gossip_caffe.errors import StoreError
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.store import Store
from gossip_caffe.observe.status import PeerStatus
from gossip_caffe.stored import needed, read_object


@dataclass(slots=True)
class JobStatus:
    """``statuses`` by peer; ``finished`` and ``tested`` None while there is neither; ``away``: why etcd is silent."""

    statuses: dict[str, PeerStatus] = field(default_factory=dict)
    finished: dict[str, Any] | None = None
    tested: dict[str, Any] | None = None
    away: str = ""


async def job_status(store: Store, keys: JobKeys) -> JobStatus:
    """Read what the store says now; what it does not say, because it is away, is left out."""
    found = JobStatus()
    try:
        for item in (await store.list(keys.statuses)).items:
            try:
                status = PeerStatus.from_json(item.value)
            except ValueError:
                continue  # of a version that we cannot read
            found.statuses[status.peer] = status
        if (end := await store.get(keys.finished)) is not None:
            needed(end.key, end.value, "checkpoint", str)
            found.finished = read_object(end.value)
        if (test := await store.get(keys.tested)) is not None:
            found.tested = _object(test.value)
    except StoreError as error:
        found.away = error.message
    return found


def peer_rows(fleet: Fleet, statuses: dict[str, PeerStatus]) -> list[dict[str, Any]]:
    """A row for each peer of the fleet, and then for each that was started elsewhere."""
    rows = []
    elsewhere = dict(statuses)
    for peer in fleet.peers.values():
        row: dict[str, Any] = {
            "peer": peer.name,
            "pid": peer.pid,
            "running": peer.running,
            "end": peer.how,
            "cause": fleet.cause(peer),
        }
        # A record that a killed predecessor of that name left is not this one's.
        said = elsewhere.pop(peer.name, None)
        if said is not None and said.agent_pid == peer.pid:
            row["status"] = asdict(said)
        rows.append(row)
    return rows + [
        {"peer": name, "pid": 0, "running": True, "end": "", "cause": "", "status": asdict(status)}
        for name, status in elsewhere.items()
    ]


def _object(value: bytes) -> dict[str, Any] | None:
    try:
        return read_object(value)
    except ValueError:
        return None  # whatever it is, it is not ours
