"""The check of each call: whether the certificate of its connection allows what the message asks.

The messages of an exchange name their sender. A caller with a certificate may name no one but itself. Without
certificates (on a Unix socket, or with --insecure) nothing is checked: every name is only a claim then.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from gossip_caffe.gossip.codecs.message import FramesCorrupt
from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.security.identity import Identity, identity_of, objection_to_member, objection_to_viewer
from gossip_caffe.wire import gossip_pb2 as wire

_TLS = "TLSv1.3"


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """A call that its certificate does not allow.

    ``call``: "exchange", "rounds", "snapshot" or "pull". ``caller``: the names in the certificate; ``claims``: the peer
    that the message names, "" if it names none.
    """

    call: str
    caller: str
    claims: str
    reason: str


class Unauthorized(FramesCorrupt):
    """A word of a stream names another peer than the certificate of its connection."""


class Callers:
    """Checks the callers of one peer. ``told`` is called with each call that is turned away."""

    def __init__(self) -> None:
        self.told: Callable[[TurnedAway], None] = lambda _: None

    def objection_to_member(self, call: str, context: Any, peer: str, job: str) -> str:
        """Why this call may not be one of ``peer`` of ``job``; "" if it may."""
        caller = caller_of(context)
        if caller is None:
            return ""
        return self._told(call, caller, peer, _old(context) or objection_to_member(caller, peer, job))

    def objection_to_viewer(self, call: str, context: Any, job: str) -> str:
        """Why this call may not look at ``job``; "" if it may."""
        caller = caller_of(context)
        if caller is None:
            return ""
        return self._told(call, caller, "", _old(context) or objection_to_viewer(caller, job))

    async def words(self, stream: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """The words of a member of rounds. Raises Unauthorized at one in which the caller is not who it says."""
        async for word in stream:
            if isinstance(word, wire.RoundWord) and word.kind == wire.RoundWord.ATTEND:
                self._check(word, context)
            yield word

    def _check(self, word: Any, context: Any) -> None:
        if why := self.objection_to_member("rounds", context, word.peer, word.job):
            raise Unauthorized(why)

    def _told(self, call: str, caller: Identity, claims: str, reason: str) -> str:
        if reason:
            self.told(TurnedAway(call, caller.words, claims, reason))
        return reason


def caller_of(context: Any) -> Identity | None:
    """The identity of the caller by the certificate of its connection; None for a plain one."""
    auth = context.auth_context()
    if auth.get("transport_security_type") != [b"ssl"]:
        return None
    names = tuple(_texts(auth, "peer_dns"))
    common = next(iter(_texts(auth, "x509_common_name")), "")
    uris = tuple(_texts(auth, "peer_uri") or [text for text in _texts(auth, _ALSO) if "://" in text])
    return identity_of(names, uris, common)


_ALSO = "x509_subject_alternative_name"


def _texts(auth: Any, name: str) -> list[str]:
    return [bytes(value).decode("utf-8", "replace") for value in auth.get(name, ())]


def _old(context: Any) -> str:
    """Why the version of TLS will not do; "" if it will. gRPC itself would also take 1.2."""
    said = _texts(context.auth_context(), "ssl_tls_version")
    return f"the connection has {said[0]}, and {_TLS} is the least" if said and said[0] != _TLS else ""


async def turn_away(context: Any, reason: str) -> None:
    """End a call that its certificate does not allow."""
    await context.abort(grpc.StatusCode.PERMISSION_DENIED, reason)
