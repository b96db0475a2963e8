"""Connections to the members of an etcd cluster.

There is one channel per member, so that this module decides about fail-over and logs it, and not gRPC.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gossip_caffe.clock import Clock
from gossip_caffe.errors import (
    Ambiguous,
    ReplyTooLarge,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.membership.etcd.access.channels import EtcdChannels
from gossip_caffe.membership.etcd.access.login import Login
from gossip_caffe.membership.etcd.access.refused import Asked, asked_of, refusal
from gossip_caffe.membership.etcd.refusals import write_refused
from gossip_caffe.security.faults import TlsFault, fault_in, words_of
from gossip_caffe.security.security import PLAIN, Security

_TOO_LARGE = "received message larger than max"
"""Text of gRPC's own error here. etcd uses the same status code when it refuses a request."""

_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
_WRITES = ("KV/Txn", "Lease/LeaseGrant")
_SAYS_LITTLE = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.ABORTED)
"""Codes that a proxy between here and the server may send, too: they do not tell whether a write was applied."""
_NEVER_SENT = (
    "failed to connect",
    "connection refused",
    "no leader",
    "dns resolution failed",
    "name resolution",
)
_MOST_LOGINS = 3
"""Attempts of one request with a new token, or after roles were changed meanwhile."""
_TLS_PATIENCE_S = 2.0
"""The time for which a request is repeated after a failed handshake: the certificates are not likely to change."""


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """Time limits of a client, in seconds.

    ``call_timeout_s`` limits one attempt, ``retry_for_s`` all attempts of one request. The pause between attempts
    grows from ``first_pause_s`` to ``longest_pause_s``.
    """

    call_timeout_s: float = 2.0
    retry_for_s: float = 8.0
    first_pause_s: float = 0.05
    longest_pause_s: float = 1.0


class EtcdConnection:
    """Calls to one member of the cluster, until it fails; then to the next."""

    def __init__(
        self,
        endpoints: Sequence[str],
        clock: Clock,
        rng: random.Random,
        settings: EtcdSettings | None = None,
        security: Security = PLAIN,
    ) -> None:
        self.endpoints = tuple(endpoints)
        self.security = security
        self.settings = settings or EtcdSettings()
        self.clock = clock
        self.rng = rng
        self.closed = False
        self._was_reached = False
        self._channels = EtcdChannels(security, clock)
        self._login = Login(security)
        self._current = rng.randrange(len(self.endpoints))

    @property
    def endpoint(self) -> str:
        """The endpoint of the member in use."""
        return self.endpoints[self._current]

    def channel(self) -> Any:
        """The channel to the member in use; it is opened on the first call."""
        return self._channels.to(self.endpoint)

    @property
    def certificates_changed(self) -> int:
        """How often a channel was replaced by one with newer certificate files."""
        return self._channels.changes

    def is_newest(self, endpoint: str, channel: Any) -> bool:
        """False once another channel replaced this one, because the certificate files have changed."""
        return self._channels.is_newest(endpoint, channel)

    async def metadata(self) -> tuple[tuple[str, str], ...]:
        """The part of a call that says who this client is. Raises AioRpcError, StoreRefused."""
        return await self._metadata(self.endpoint)

    async def _metadata(self, endpoint: str) -> tuple[tuple[str, str], ...]:
        token = await self._login.token(self._channels.to(endpoint), endpoint, self.settings.call_timeout_s)
        return (("token", token),) if token else ()

    def denied(
        self, endpoint: str, asked: Asked, code: grpc.StatusCode | None, reason: str
    ) -> StoreRefused | None:
        """The error for a request that etcd does not permit to this client; None for any other answer."""
        return refusal(endpoint, self.security.user or self._channels.user, asked, code, reason)

    def is_stale(self, metadata: Sequence[tuple[str, str]], reason: str, *, of_watch: bool = False) -> bool:
        """True if a refused call may succeed when it is made again: etcd has forgotten its token, which is dropped.

        ``of_watch``: a watch was refused although its keys could be listed. Old versions of etcd then say "permission
        denied" of a forgotten token.
        """
        if not self._login.is_stale(reason) and not (of_watch and self._login.by_password):
            return False
        self._login.forget(dict(metadata).get("token", ""))
        return True

    def leave(self, endpoint: str) -> None:
        """Change to the next member, unless another task has already left ``endpoint``."""
        if self.endpoint == endpoint:
            self._current = (self._current + 1) % len(self.endpoints)

    def pause_s(self, attempt: int) -> float:
        """Seconds to wait before attempt ``attempt`` + 1: exponential back-off with jitter."""
        longest = min(self.settings.first_pause_s * 2**attempt, self.settings.longest_pause_s)
        return float(longest) * self.rng.uniform(0.5, 1.0)

    async def call(
        self, method: str, request: Any, reply: Any, *, repeatable: bool = True, timeout_s: float = 0.0
    ) -> Any:
        """Make one unary call, e.g. "KV/Range"; each member is tried in turn until ``retry_for_s`` is over.

        ``timeout_s``: limit of one attempt, in seconds; 0.0 for the limit of the settings.

        A call that is not ``repeatable`` is repeated only while it certainly was not sent, or was refused for its
        token; after that, Ambiguous is raised. Raises StoreRefused for a request that etcd does not permit,
        WritesRefused for a write that etcd does not accept, ReplyTooLarge for a reply that must be read in smaller
        parts, and StoreError for any other failure.
        """
        began_at = self.clock.monotonic()
        attempt = logins = 0
        while True:
            endpoint, sent = self.endpoint, False
            metadata: tuple[tuple[str, str], ...] = ()
            try:
                metadata = await self._metadata(endpoint)
                invoke = self._channels.to(endpoint).unary_unary(
                    f"/etcdserverpb.{method}",
                    request_serializer=type(request).SerializeToString,
                    response_deserializer=reply.FromString,
                )
                sent = True
                timeout_s = timeout_s or self.settings.call_timeout_s
                answer = await invoke(request, timeout=timeout_s, metadata=metadata)
                self._was_reached = True
                return answer
            except asyncio.CancelledError:
                # gRPC cancels a call whose channel is closed: here one that its certificate's successor replaced.
                if self.closed or (task := asyncio.current_task()) is None or task.cancelling():
                    raise
                if not repeatable:
                    raise Ambiguous(
                        f"the connection to etcd at {endpoint} was closed during {method}"
                    ) from None
            except grpc.aio.AioRpcError as error:
                said = error.details() or ""
                if sent and logins < _MOST_LOGINS and self.is_stale(metadata, said):
                    logins += 1
                    continue
                if answered := self._answered(endpoint, method, request, error, repeatable=repeatable):
                    raise answered from error
                self.leave(endpoint)
                never_sent = not sent or any(sign in said.lower() for sign in _NEVER_SENT)
                if not repeatable and not never_sent:
                    raise Ambiguous(
                        f"etcd at {endpoint} did not answer {method}: {error.code().name}"
                    ) from error
                give_up_at = began_at + self._patience_s(said)
                pause_s = self.pause_s(attempt)
                attempt += 1
                if self.closed or self.clock.monotonic() + pause_s > give_up_at:
                    raise self._not_reached(endpoint, error.code().name.lower(), said) from error
                await self.clock.sleep(pause_s)

    def _answered(
        self, endpoint: str, method: str, request: Any, error: Any, *, repeatable: bool
    ) -> StoreError | None:
        """The error for a call that etcd, or a proxy before it, has answered; None for a member that is away."""
        said = error.details() or ""
        detail = said.lower()
        if refused := self.denied(endpoint, asked_of(method, request), error.code(), said):
            return refused
        if _TOO_LARGE in detail:
            return ReplyTooLarge(f"etcd at {endpoint} answers {method} with a reply over the limit")
        if error.code() in _AWAY or "leader" in detail:
            return None
        if not repeatable and error.code() in _SAYS_LITTLE:
            return Ambiguous(f"etcd at {endpoint} failed at {method}: {said}")
        if method in _WRITES:
            return write_refused(said or error.code().name)
        return StoreError(f"etcd at {endpoint} refused {method}: {said}")

    def _patience_s(self, details: str) -> float:
        """Seconds for which a request is repeated. A handshake that has never succeeded here will hardly do so."""
        if self._was_reached or self._tls_trouble(details) is None:
            return self.settings.retry_for_s
        return min(_TLS_PATIENCE_S, self.settings.retry_for_s)

    def _not_reached(self, endpoint: str, why: str, details: str) -> StoreUnavailable:
        return self._tls_trouble(details, endpoint) or self.unavailable(why)

    def _tls_trouble(self, details: str, endpoint: str = "") -> StoreUnavailable | None:
        """The error for a connection that fails because of TLS; None for one that fails for another reason."""
        said = details.lower()
        if self.security.tls is None:
            if "failed to connect" not in said or "socket closed" not in said:
                return None
            return StoreUnavailable(
                f"etcd at {endpoint} ends each plain connection at once, as one that asks for certificates does",
                remedy="give --tls-dir DIR, or --cacert, --cert and --key; else check --etcd",
            )
        fault = TlsFault.PLAIN if "handshake read failed" in said else fault_in(details)
        if fault is None:
            return None
        return StoreUnavailable(
            f"no secured connection to etcd: {words_of(fault, f'etcd at {endpoint}')}",
            remedy="see the certificates in docs/security.md, and 'gossip-caffe doctor'",
        )

    def unavailable(self, why: str) -> StoreUnavailable:
        """The error for an etcd that cannot be reached; ``why`` is a status code in lower case."""
        return StoreUnavailable(
            f"cannot reach etcd at {','.join(self.endpoints)} ({why.replace('_', ' ')})",
            remedy="check --etcd, or start a local one with 'gossip-caffe cluster up'",
        )

    async def close(self) -> None:
        """Close all channels."""
        self.closed = True
        await self._channels.close()
