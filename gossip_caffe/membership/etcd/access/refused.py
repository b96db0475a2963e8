"""The words for a request that etcd does not permit: the user, the key, and the role that the user lacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gossip_caffe.errors import StoreRefused
from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.membership.etcd.access.roles import Kind, scope_of
from gossip_caffe.plain import shown
from gossip_caffe.security.identity import Role
from gossip_caffe.wire import etcd_pb2 as pb

_REFUSED = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)
_NO_USER = ("user name is empty",)
_WRONG = ("authentication failed",)
_REFUSALS = ("permission denied", "invalid auth token", *_NO_USER, *_WRONG)
"""Texts of etcd with the same meaning. They also come without such a code, as the reason of a cancelled watch."""
_MOST_KEY = 200
"""Limit of a key in a message, in characters."""
_ROLES = {Role.OWNER: 0, Role.PEER: 1, Role.VIEWER: 2}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request in words. ``key``: the key or prefix that it reads or writes; "" for a request without one."""

    verb: str
    key: str = ""
    writes: bool = False

    @property
    def role(self) -> Role | None:
        """The role that the request needs; None for a key of no job and no study."""
        scope = scope_of(self.key)
        return scope.needed(self.key, writes=self.writes) if scope is not None else None


def asked_of(method: str, request: Any) -> Asked:
    """Describe a request. Of several keys the one is named that needs the most rights."""
    if isinstance(request, pb.RangeRequest):
        return Asked("read", _text(request.key))
    if isinstance(request, pb.TxnRequest):
        found = [
            *_of_operations(request.success),
            *(Asked("read", _text(entry.key)) for entry in request.compare),
        ]
        if found:
            return min(found, key=lambda asked: (not asked.writes, _ROLES[asked.role or Role.PEER]))
    return Asked(f"call {method}")


def refusal(
    endpoint: str, user: str, asked: Asked, code: grpc.StatusCode | None, reason: str
) -> StoreRefused | None:
    """The error for a request that etcd does not permit to this client; None for any other answer.

    ``user``: the client's name for etcd, "" if it has none. ``code``: the status of the call, None where etcd only gave
    a ``reason``.
    """
    said = reason.lower()
    if code not in _REFUSED and not any(words in said for words in _REFUSALS):
        return None
    if any(words in said for words in _WRONG):
        return StoreRefused(
            f"etcd at {endpoint} knows no user {shown(user)}, or not by this password",
            remedy="check --user, and the one line in the file --password-file",
        )
    if any(words in said for words in _NO_USER) or not user:
        return StoreRefused(
            f"etcd at {endpoint} authenticates its clients, and does not know whose request this is: {reason or code}",
            remedy="give --user and --password-file, or --tls-dir with a certificate whose CN is a user of an etcd "
            "that runs with --client-cert-auth",
        )
    what = f"{asked.verb} {asked.key[:_MOST_KEY]!a}" if asked.key else asked.verb
    return StoreRefused(
        f"etcd at {endpoint} does not let user {shown(user)} {what}{_lacks(asked, said)}",
        remedy=_remedy(asked, user),
    )


def _lacks(asked: Asked, reason: str) -> str:
    scope = scope_of(asked.key)
    if scope is None or asked.role is None:
        return f": {reason}"
    return f": it needs the role {scope.role(asked.role)}"


def _remedy(asked: Asked, user: str) -> str:
    scope = scope_of(asked.key)
    if scope is None or asked.role is None:
        return f"grant it with etcdctl to a role of {shown(user)}, or use another user"
    study = " --study" if scope.kind is Kind.STUDY else ""
    return (
        f"let etcd's root run 'gossip-caffe etcd roles {scope.name}{study} --{asked.role.value} {user} --apply', "
        "or use another user"
    )


def _of_operations(operations: Any) -> Iterator[Asked]:
    for operation in operations:
        if operation.HasField("request_put"):
            yield Asked("write", _text(operation.request_put.key), writes=True)
        elif operation.HasField("request_delete_range"):
            yield Asked("remove", _text(operation.request_delete_range.key), writes=True)
        elif operation.HasField("request_range"):
            yield Asked("read", _text(operation.request_range.key))


def _text(key: bytes) -> str:
    return key.decode(errors="backslashreplace")
