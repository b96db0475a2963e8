"""The state of one member of an etcd cluster, for people who look after it."""

from __future__ import annotations

import random
from dataclasses import dataclass

from gossip_caffe.clock import Clock
from gossip_caffe.errors import StoreError
from gossip_caffe.membership.etcd.access.roles import PROBE
from gossip_caffe.membership.etcd.etcd_channel import EtcdConnection, EtcdSettings
from gossip_caffe.security.security import PLAIN, Security
from gossip_caffe.wire import etcd_pb2 as pb

_ALARMS = ("NOSPACE", "CORRUPT")
_PATIENCE = EtcdSettings(call_timeout_s=3.0, retry_for_s=3.0)


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """The state of one member.

    ``file_bytes``: the size of its file; ``used_bytes``: of the used part; ``quota_bytes``: the limit of the file's
    size, 0 if this version does not tell it. ``alarms``: "NOSPACE" and "CORRUPT", if they are raised. ``revision``: the
    newest revision that it knows. ``latency_s``: the time of this call, in seconds.
    """

    version: str
    file_bytes: int
    used_bytes: int
    quota_bytes: int
    has_leader: bool
    is_leader: bool
    is_learner: bool
    alarms: tuple[str, ...]
    revision: int
    latency_s: float


class MemberProbe:
    """Asks one member, and no other one."""

    def __init__(self, endpoint: str, clock: Clock, security: Security = PLAIN) -> None:
        self._clock = clock
        self._connection = EtcdConnection([endpoint], clock, random.Random(0), _PATIENCE, security)

    async def status(self) -> MemberStatus:
        """The member's state. Raises StoreError."""
        began_s = self._clock.monotonic()
        reply = await self._connection.call("Maintenance/Status", pb.StatusRequest(), pb.StatusResponse)
        said = " ".join(reply.errors)
        return MemberStatus(
            version=reply.version,
            file_bytes=reply.dbSize,
            used_bytes=reply.dbSizeInUse,
            quota_bytes=reply.dbSizeQuota,
            has_leader=reply.leader != 0,
            is_leader=reply.leader != 0 and reply.leader == reply.header.member_id,
            is_learner=reply.isLearner,
            alarms=tuple(alarm for alarm in _ALARMS if f"alarm:{alarm}" in said),
            revision=reply.header.revision,
            latency_s=self._clock.monotonic() - began_s,
        )

    async def kept_revisions(self, newest: int) -> int:
        """The number of revisions up to ``newest`` that no compaction has removed. Raises StoreError.

        etcd does not tell it, so it is found by bisection: some twenty small reads.
        """
        oldest, low = newest, 1
        while low < oldest:
            middle = (low + oldest) // 2
            if await self._holds(middle):
                oldest = middle
            else:
                low = middle + 1
        return newest - oldest + 1

    async def _holds(self, revision: int) -> bool:
        request = pb.RangeRequest(key=PROBE.encode(), limit=1, revision=revision, keys_only=True)
        try:
            await self._connection.call("KV/Range", request, pb.RangeResponse)
        except StoreError as error:
            if "compacted" in error.message:
                return False
            raise
        return True

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()
