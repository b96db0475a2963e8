"""Connections to the members of an etcd cluster.

There is one channel per member, so that this module decides about fail-over and logs it, and not gRPC.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossip_caffe.clock import Clock
from gossip_caffe.errors import (
    Ambiguous,
    ReplyTooLarge,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    UsageError,
)
from gossip_caffe.grpc_runtime import NO_PROXY, grpc
from gossip_caffe.membership.etcd.refusals import write_refused
from gossip_caffe.security.security import PLAIN, Security
from gossip_caffe.system.unix_sockets import UNIX, grpc_target, path_fault, unix_address

MOST_REPLY_BYTES = 16 << 20
"""Limit of one reply. With etcd's default limits a value has at most 1.5 MiB, and a fragment of a watch 2 MiB."""
_TOO_LARGE = "received message larger than max"
"""Text of gRPC's own error here. etcd uses the same status code when it refuses a request."""

# A frozen server is detected after ping time + timeout, about 9 s. etcd closes a connection with more than one ping in
# 5 s.
_OPTIONS = [
    ("grpc.keepalive_time_ms", 6000),
    ("grpc.keepalive_timeout_ms", 3000),
    ("grpc.http2.ping_timeout_ms", 3000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", MOST_REPLY_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.use_local_subchannel_pool", 1),
    *NO_PROXY,
]
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
_REFUSED = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)
_REFUSALS = (
    "permission denied",
    "invalid auth token",
    "user name is empty",
    "user name not found",
    "authentication failed",
)
"""Texts of etcd with the same meaning. They also come without such a code, as the reason of a cancelled watch."""


def refusal(endpoint: str, what: str, code: grpc.StatusCode | None, reason: str) -> StoreRefused | None:
    """The error for a request that etcd does not permit to this client; None for any other answer.

    ``what``: the request, for the message. ``code``: the status of the call, None where etcd only gave a ``reason``.
    """
    if code not in _REFUSED and not any(words in reason.lower() for words in _REFUSALS):
        return None
    return StoreRefused(
        f"etcd at {endpoint} does not allow this client {what}: {reason or code}",
        remedy="let its user read and write /gossip-caffe/ (etcdctl role grant-permission), or give another --etcd",
    )


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


def parse_endpoints(text: str, security: Security = PLAIN) -> tuple[str, ...]:
    """Parse "host:port,host:port", or "unix:PATH" for an etcd on this machine.

    A relative path begins at the folder here. "https://" needs a ``security`` with certificate files, and "http://" one
    without; without a scheme TLS is used if there are such files.

    Returns one endpoint or more. Raises UsageError, which names the wrong part and the right form.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if any("@" in part and not part.startswith(UNIX) for part in parts):
        # The message must not repeat the password, which may contain commas.
        raise UsageError(
            "--etcd holds a user's name or password, which everybody on this machine can read there",
            remedy="give --user and --password-file, and in --etcd what follows the @ alone: "
            f"{text.rpartition('@')[2]}",
        )
    return tuple(_endpoint(part, security) for part in parts or [""])


def _endpoint(part: str, security: Security) -> str:
    if part.startswith(UNIX):
        return _socket(part)
    scheme, there, rest = part.rpartition("://")
    rest = rest.rstrip("/") if there else rest
    host, colon, port = rest.rpartition(":")
    right = "give for example 127.0.0.1:2379"

    def refused(why: str, remedy: str) -> UsageError:
        return UsageError(f"--etcd {part!r} {why}", remedy=remedy)

    if scheme.lower() not in {"", "http", "https"}:
        raise refused(f"begins with {scheme}://", f"give {rest} alone, or https://{rest}")
    if scheme.lower() == "https" and security.tls is None:
        raise refused("needs certificates", "give --tls-dir DIR, or --cacert, --cert and --key")
    if scheme.lower() == "http" and security.tls is not None:
        raise refused("is plain, and certificate files are given", f"give https://{rest}")
    if "/" in rest or "?" in rest:
        short = rest.partition("/")[0].partition("?")[0]
        raise refused("goes on after the port", f"give {short} alone" if short else right)
    if not rest.startswith("[") and rest.count(":") > 1:
        raise refused("is an IPv6 address without brackets", f"give {_with_brackets(rest)}")
    if _is_ipv6(rest):
        raise refused("is no HOST:PORT", f"give {rest}:2379")
    if host.startswith("[") and not _is_ipv6(host):
        raise refused("has no IPv6 address between its brackets", "give for example [::1]:2379")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise refused("is no HOST:PORT", f"give {rest}:2379" if rest and not colon else right)
    if any(letter.isspace() or not letter.isprintable() for letter in host):
        raise refused("is no HOST:PORT", right)
    return rest


def _is_ipv6(host: str) -> bool:
    """True for an IPv6 address in brackets."""
    try:
        ipaddress.IPv6Address(host[1:-1] if host[:1] == "[" and host[-1:] == "]" else "")
    except ValueError:
        return False
    return True


def _with_brackets(text: str) -> str:
    """The address with brackets added: its last number is the port, unless only the whole text is an address."""
    host, _, port = text.rpartition(":")
    for address, number in ((host, port), (text, "2379")):
        if _is_ipv6(f"[{address}]") and number.isdigit():
            return f"[{address}]:{number}"
    return "[ADDRESS]:PORT"


def _socket(part: str) -> str:
    """The one form of unix:PATH and unix:///PATH, with all links resolved.

    Peers derive the folder of their own sockets from it, so all must write it alike.
    """
    words = part.removeprefix(UNIX)

    def refused(why: str) -> UsageError:
        return UsageError(f"--etcd {part!r} {why}", remedy="give unix:PATH, the path of etcd's Unix socket")

    if words.startswith("//") and not words.startswith("///"):
        raise refused("names a host")
    if not words.strip("/"):
        raise refused("names no socket")
    path = Path(words.removeprefix("//")).resolve()
    if fault := path_fault(path):
        raise refused(f"cannot be a socket: {fault}")
    return unix_address(path)


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
        self._channels: dict[str, Any] = {}
        self._current = rng.randrange(len(self.endpoints))

    @property
    def endpoint(self) -> str:
        """The endpoint of the member in use."""
        return self.endpoints[self._current]

    def channel(self) -> Any:
        """The channel to the member in use; it is opened on the first call."""
        if self.endpoint not in self._channels:
            self._channels[self.endpoint] = self._opened(grpc_target(self.endpoint))
        return self._channels[self.endpoint]

    def _opened(self, target: str) -> Any:
        if self.security.tls is None or target.startswith(UNIX):
            return grpc.aio.insecure_channel(target, options=_OPTIONS)
        files = self.security.tls.read()
        credentials = grpc.ssl_channel_credentials(files.cacert, files.key, files.cert)
        return grpc.aio.secure_channel(target, credentials, options=_OPTIONS)

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

        A call that is not ``repeatable`` is repeated only while it certainly was not sent; after that, Ambiguous is
        raised. Raises StoreRefused for a request that etcd does not permit, WritesRefused for a write that etcd does
        not accept, ReplyTooLarge for a reply that must be read in smaller parts, and StoreError for any other failure.
        """
        give_up_at = self.clock.monotonic() + self.settings.retry_for_s
        attempt = 0
        while True:
            endpoint = self.endpoint
            try:
                invoke = self.channel().unary_unary(
                    f"/etcdserverpb.{method}",
                    request_serializer=type(request).SerializeToString,
                    response_deserializer=reply.FromString,
                )
                return await invoke(request, timeout=timeout_s or self.settings.call_timeout_s)
            except grpc.aio.AioRpcError as error:
                detail = (error.details() or "").lower()
                if refused := refusal(endpoint, method, error.code(), error.details() or ""):
                    raise refused from error
                if _TOO_LARGE in detail:
                    raise ReplyTooLarge(
                        f"etcd at {endpoint} answers {method} with a reply over the limit"
                    ) from error
                if error.code() not in _AWAY and "leader" not in detail:
                    if not repeatable and error.code() in _SAYS_LITTLE:
                        raise Ambiguous(
                            f"etcd at {endpoint} failed at {method}: {error.details()}"
                        ) from error
                    if method in _WRITES:
                        raise write_refused(error.details() or error.code().name) from error
                    raise StoreError(f"etcd at {endpoint} refused {method}: {error.details()}") from error
                self.leave(endpoint)
                never_sent = any(sign in detail for sign in _NEVER_SENT)
                if not repeatable and not never_sent:
                    raise Ambiguous(
                        f"etcd at {endpoint} did not answer {method}: {error.code().name}"
                    ) from error
                pause_s = self.pause_s(attempt)
                attempt += 1
                if self.closed or self.clock.monotonic() + pause_s > give_up_at:
                    raise self.unavailable(error.code().name.lower()) from error
                await self.clock.sleep(pause_s)

    def unavailable(self, why: str) -> StoreUnavailable:
        """The error for an etcd that cannot be reached; ``why`` is a status code in lower case."""
        return StoreUnavailable(
            f"cannot reach etcd at {','.join(self.endpoints)} ({why.replace('_', ' ')})",
            remedy="check --etcd, or start a local one with 'gossip-caffe cluster up'",
        )

    async def close(self) -> None:
        """Close all channels."""
        self.closed = True
        for channel in self._channels.values():
            await channel.close()
