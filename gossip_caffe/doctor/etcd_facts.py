"""The facts about an etcd cluster, as this machine sees it: each member is asked by itself."""

from __future__ import annotations

import asyncio
import email.utils
import random
from collections.abc import Sequence
from dataclasses import dataclass

from gossip_caffe.addresses import split_address
from gossip_caffe.clock import Clock
from gossip_caffe.errors import GossipCaffeError, StoreError
from gossip_caffe.membership.etcd.access.roles import PROBE
from gossip_caffe.membership.etcd.etcd_member import MemberProbe, MemberStatus
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.etcd.store import Delete, Put
from gossip_caffe.security.certificate import context_of
from gossip_caffe.security.security import PLAIN, Security
from gossip_caffe.system.unix_sockets import socket_path

CALLS = 5
_HTTP_S = 3.0
_MOST_HTTP_BYTES = 4096
_PROBE_TTL_S = 5.0


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """One member. ``status``: None if it does not answer, and then ``error`` is the reason.

    ``latency_s``: the median time of a call. ``ahead_s``: the time by which its machine's clock is ahead of the clock
    here; None if it is not known.
    """

    endpoint: str
    status: MemberStatus | None = None
    error: GossipCaffeError | None = None
    latency_s: float = 0.0
    ahead_s: float | None = None


@dataclass(frozen=True, slots=True)
class EtcdFacts:
    """A cluster. ``write_s``: the time of a write; None if it failed, and then ``write_error`` is the reason.

    ``kept_revisions``: the length of the history that etcd keeps; None if it is not known. ``guards_writes``: it
    authenticates its clients; None: this machine has no certificate, or it is not known.
    """

    members: tuple[MemberFacts, ...]
    write_s: float | None
    write_error: GossipCaffeError | None = None
    kept_revisions: int | None = None
    guards_writes: bool | None = None


async def gather_facts(
    endpoints: Sequence[str], clock: Clock, rng: random.Random, security: Security = PLAIN
) -> EtcdFacts:
    """Ask all members, write one key, and remove it again. Errors are facts, too: none is raised."""
    members = await asyncio.gather(*(_member(endpoint, clock, security) for endpoint in endpoints))
    if all(member.status is None for member in members):
        return EtcdFacts(tuple(members), None)
    write_s, error = await _write(endpoints, clock, rng, security)
    guarded = await _guarded(endpoints, clock, rng, security)
    return EtcdFacts(tuple(members), write_s, error, await _kept(members, clock, security), guarded)


async def _member(endpoint: str, clock: Clock, security: Security) -> MemberFacts:
    probe = MemberProbe(endpoint, clock, security)
    try:
        seen = [await probe.status() for _ in range(CALLS)]
    except StoreError as error:
        return MemberFacts(endpoint, error=error)
    finally:
        await probe.close()
    latency_s = sorted(status.latency_s for status in seen)[CALLS // 2]
    return MemberFacts(
        endpoint, seen[-1], latency_s=latency_s, ahead_s=await _ahead_s(endpoint, clock, security)
    )


async def _write(
    endpoints: Sequence[str], clock: Clock, rng: random.Random, security: Security
) -> tuple[float | None, GossipCaffeError | None]:
    """Write a key under a lease as a peer does. Returns the time of the write, or the error."""
    store = EtcdStore(endpoints, clock, rng, security=security)
    key = f"{PROBE}{rng.getrandbits(64):016x}"
    try:
        lease = await store.grant(_PROBE_TTL_S)
        began_s = clock.monotonic()
        await store.transact([], [Put(key, b"", lease.id)])
        took_s = clock.monotonic() - began_s
        await store.transact([], [Delete(key)])
        await store.revoke(lease.id)
    except StoreError as error:
        return None, error
    finally:
        await store.close()
    return took_s, None


async def _guarded(
    endpoints: Sequence[str], clock: Clock, rng: random.Random, security: Security
) -> bool | None:
    if security.tls is None:
        return None
    store = EtcdStore(endpoints, clock, rng, security=security)
    try:
        return await store.guards_writes()
    except StoreError:
        return None
    finally:
        await store.close()


async def _kept(members: Sequence[MemberFacts], clock: Clock, security: Security) -> int | None:
    for member in members:
        if member.status is not None:
            probe = MemberProbe(member.endpoint, clock, security)
            try:
                return await probe.kept_revisions(member.status.revision)
            except StoreError:
                return None
            finally:
                await probe.close()
    return None


async def _ahead_s(endpoint: str, clock: Clock, security: Security) -> float | None:
    """The lead of a member's clock, in seconds: etcd's answer to an HTTP request on its port has a date.

    The date has whole seconds. None where it is not known, and for a Unix socket, whose machine is this one.
    """
    if socket_path(endpoint) is not None:
        return None
    host, port = split_address(endpoint, "--etcd")
    before_s = clock.wall()
    try:
        async with clock.timeout(_HTTP_S):
            secured = context_of(security.tls, is_server=False) if security.tls is not None else None
            reader, writer = await asyncio.open_connection(host.strip("[]"), port, ssl=secured)
            try:
                writer.write(b"GET /version HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n")
                answer = await reader.read(_MOST_HTTP_BYTES)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    return ahead_of(answer, (before_s + clock.wall()) / 2)


def ahead_of(answer: bytes, now_s: float) -> float | None:
    """The lead of the clock that an HTTP answer's date shows, in seconds; None if it has no date.

    ``now_s``: the time here, in seconds since the Unix epoch. A date without fractions stands for its middle.
    """
    for line in answer.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"date":
            try:
                date = email.utils.parsedate_to_datetime(value.decode("ascii", "replace").strip())
                return date.timestamp() + 0.5 - now_s
            except (ValueError, TypeError, OverflowError):
                return None
    return None
