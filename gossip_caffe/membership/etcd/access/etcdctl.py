"""The commands of etcdctl that make the roles of a job, for an administrator who runs them by hand."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from gossip_caffe.membership.etcd.access.roles import Scope
from gossip_caffe.security.identity import Role


def commands(scope: Scope, users: Mapping[Role, Sequence[str]]) -> tuple[str, ...]:
    """The commands for all roles of ``scope``, and for the users that get them. Each is a line for a shell."""
    return tuple(
        shlex.join(("etcdctl", *words)) for role in Role for words in _of(scope, role, users.get(role, ()))
    )


def _of(scope: Scope, role: Role, users: Sequence[str]) -> Iterator[tuple[str, ...]]:
    name = scope.role(role)
    yield "role", "add", name
    for keys in scope.ranges(role):
        yield "role", "grant-permission", name, keys.kind, keys.start, keys.end
    for user in users:
        yield "user", "add", user, "--no-password"
        yield "user", "grant-role", user, name
