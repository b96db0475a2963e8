"""The snapshot of a living job for views, read from etcd. No peer is contacted, and nothing is written."""

from __future__ import annotations

from gossip_caffe.clock import Clock
from gossip_caffe.cluster.supervision.job_status import job_status
from gossip_caffe.errors import StoreUnavailable
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.membership.etcd.store import Store
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import PeerRecord, list_members
from gossip_caffe.observe.log.ignored import Note, discard_note
from gossip_caffe.observe.log.status import PeerStatus
from gossip_caffe.observe.log.tested import ConsensusTest
from gossip_caffe.observe.views.snapshot import TRAINING, PeerView, Snapshot, natural
from gossip_caffe.shards.plan import planned_weights


async def read_snapshot(store: Store, spec: JobSpec, clock: Clock, ignored: Note = discard_note) -> Snapshot:
    """Read a job's snapshot. ``ignored`` is called for every record of a peer that is not believed.

    Raises StoreError when etcd does not answer.
    """
    keys = JobKeys(spec.name)
    members = await list_members(store, keys, ignored)
    found = await job_status(store, keys)
    if found.away:
        raise StoreUnavailable(found.away)
    weights = planned_weights({record.peer: record.weight for record in members if record.state == TRAINING})
    whole = sum(weights.values())
    peers = [
        _view(record, found.statuses.get(record.peer), weights.get(record.peer), whole) for record in members
    ]
    return Snapshot(
        job=spec.name,
        wall=clock.wall(),
        peers=tuple(sorted(peers, key=lambda peer: natural(peer.peer))),
        budget_samples=spec.budget_samples,
        finished="" if found.finished is None else str(found.finished.get("checkpoint", "")),
        tested=_test(found.tested),
        refuses=found.refuses,
    )


def _view(record: PeerRecord, status: PeerStatus | None, weight: float | None, whole: float) -> PeerView:
    if status is not None and status.agent_pid not in {0, record.pid}:
        status = None  # it is of an earlier peer of that name, whose lease has not ended yet
    return PeerView(
        peer=record.peer,
        state=record.state,
        incarnation=record.incarnation,
        device=record.device,
        device_name=record.device_name,
        host=record.host,
        pid=record.pid,
        address=record.address,
        insecure=record.insecure,
        zone=record.zone,
        version=record.version,
        share=None if weight is None or whole <= 0 else weight / whole,
        status=status,
    )


def _test(record: dict[str, object] | None) -> ConsensusTest | None:
    try:
        return None if record is None else ConsensusTest.from_record(record)
    except ValueError:
        return None  # a record of another version
