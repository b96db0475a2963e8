"""The status of a cluster's job and its peers, from etcd and the fleet, as JSON objects."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from gossip_caffe.checkpoint.ending import read_end
from gossip_caffe.cluster.fleet.fleet import Fleet
from gossip_caffe.errors import StoreError, StoreUnavailable
from gossip_caffe.json_records import read_object
from gossip_caffe.membership.etcd.store import Store
from gossip_caffe.membership.jobs import load_job
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.observe.log.status import PeerStatus


@dataclass(slots=True)
class JobStatus:
    """The job's status in etcd. ``statuses``: by peer. ``finished``, ``tested``: None until there is such a record.

    ``away``: the reason why etcd does not answer; ``refuses``: the reason why it takes no writes, with the remedy.
    """

    statuses: dict[str, PeerStatus] = field(default_factory=dict)
    finished: dict[str, Any] | None = None
    tested: dict[str, Any] | None = None
    away: str = ""
    refuses: str = ""


async def job_status(store: Store, keys: JobKeys) -> JobStatus:
    """Read the job's status from etcd. When etcd does not answer, ``away`` is set and the rest may be missing."""
    found = JobStatus()
    try:
        for item in (await store.list(keys.statuses)).items:
            try:
                status = PeerStatus.from_json(item.value)
            except ValueError:
                continue  # a status of another version
            found.statuses[status.peer] = status
        found.finished = await _ended(store, keys)
        if (test := await store.get(keys.tested)) is not None:
            found.tested = _object(test.value)
        found.refuses = await _refusal(store)
    except StoreError as error:
        found.away = error.message
    return found


async def _ended(store: Store, keys: JobKeys) -> dict[str, Any] | None:
    """Return the record of the job's end, if it is believed. The peers have reported a record that is not believed."""
    if await store.get(keys.finished) is None:
        return None
    spec = await load_job(store, keys.job)
    end = await read_end(store, keys, spec)
    item = await store.get(keys.finished)
    return read_object(item.value) if item is not None and end is not None and end.believed else None


async def _refusal(store: Store) -> str:
    try:
        return await store.refusal()
    except StoreUnavailable:
        raise
    except StoreError:
        return ""  # a proxy, or an etcd that does not allow this request


async def record_of(store: Store, keys: JobKeys, peer: str) -> PeerRecord | None:
    """Return a peer's record in etcd; None: it is not registered, or etcd does not answer."""
    try:
        item = await store.get(keys.peer(peer))
        return None if item is None else PeerRecord.from_json(item.value)
    except (StoreError, ValueError):
        return None


def peer_rows(fleet: Fleet, statuses: dict[str, PeerStatus]) -> list[dict[str, Any]]:
    """Return one JSON object for each peer of the fleet, then for each peer that was started elsewhere."""
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
        # The record may be of a killed peer that had the same name: compare the process id.
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
        return None  # not a JSON object: another program has written it
