"""The check of a job's living peers: whether this machine reaches them, on both of their ports.

Each peer exchanges weights with each other one, so the check is to be run on each machine of a job.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.checkpoint.manifest import MANIFEST
from gossip_caffe.clock import Clock
from gossip_caffe.doctor.check_result import CheckResult
from gossip_caffe.gossip.transport.reach import PortFacts, reach
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.security.live import live_of
from gossip_caffe.security.security import PLAIN, Security


async def peer_checks(
    members: Sequence[PeerRecord],
    job: str,
    announced: Sequence[Announcement],
    clock: Clock,
    security: Security = PLAIN,
) -> list[CheckResult]:
    """Call all living peers of a job, and judge the answers."""
    live = live_of(security)
    held = [
        next((entry.checkpoint for entry in announced if record.peer in entry.holders), "")
        for record in members
    ]
    found = await asyncio.gather(
        *(
            reach(record.address, job, checkpoint, MANIFEST, clock, live)
            for record, checkpoint in zip(members, held, strict=True)
        )
    )
    return [peer_check(record, facts) for record, facts in zip(members, found, strict=True)]


def peer_check(record: PeerRecord, facts: PortFacts) -> CheckResult:
    """Judge the result of calling one peer."""
    what = f"peer {record.peer}"
    where = f"{record.address} on {record.host}"
    if facts.first:
        remedy = (
            "check --advertise of that peer, and the firewall between the machines (docs/two-machines.md)"
        )
        return CheckResult(what, False, False, f"{where}: {facts.first}", remedy)
    if facts.second:
        found = f"{where} answers, its second port {facts.second_port} does not: {facts.second}"
        remedy = "open the second port, too: weights of large models and files of checkpoints go there"
        return CheckResult(what, False, False, found, remedy)
    second = "" if facts.second is None else f", and on its second port {facts.second_port}"
    return CheckResult(what, True, False, f"{where} answers{second}")
