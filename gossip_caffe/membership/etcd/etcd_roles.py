"""The roles of a job in a real etcd: made, brought up to date, and given to users, by a client that is etcd's root."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from gossip_caffe.clock import Clock
from gossip_caffe.errors import StoreError, StoreRefused, StoreUnavailable
from gossip_caffe.membership.etcd.access.login import AuthenticatesNobody
from gossip_caffe.membership.etcd.access.roles import KeyRange, Scope
from gossip_caffe.membership.etcd.etcd_channel import EtcdConnection
from gossip_caffe.membership.etcd.etcd_watch_state import key_bytes, key_text
from gossip_caffe.security.identity import Role
from gossip_caffe.security.security import PLAIN, Security
from gossip_caffe.wire import etcd_pb2 as pb

_ROOT = "root"
_THERE = ("role name already exists", "user name already exists")
_UNKNOWN_USER = "user name not found"
"""etcd's text about a user that is asked for, and about a caller that is none of its users."""


class EtcdRoles:
    """A client that changes roles and users. Once etcd authenticates, it must be a user with etcd's role "root"."""

    def __init__(
        self, endpoints: Sequence[str], clock: Clock, rng: random.Random, security: Security = PLAIN
    ) -> None:
        self._connection = EtcdConnection(endpoints, clock, rng, security=security)

    async def apply(self, scope: Scope, role: Role, users: Sequence[str] = ()) -> tuple[str, ...]:
        """Make a role as it should be, and give it to users. Returns one line for each change.

        Permissions that the role should not have are taken back. A user that is missing is made without a password:
        it is the CN of a certificate. Raises StoreError.
        """
        name = scope.role(role)
        changes: list[str] = []
        if await self._add("RoleAdd", pb.AuthRoleAddRequest(name=name)):
            changes.append(f"role {name} made")
        changes += await self._permit(name, scope.ranges(role))
        for user in users:
            changes += await self._give(user, name)
        return tuple(changes)

    async def enable(self, roots: Sequence[str]) -> tuple[str, ...]:
        """Let etcd authenticate its clients. Returns one line for each change.

        ``roots``: the users that may do everything, "root" among them, as etcd requires; a missing one is made without
        a password. Raises StoreError.
        """
        changes: list[str] = []
        if await self._add("RoleAdd", pb.AuthRoleAddRequest(name=_ROOT)):
            changes.append(f"role {_ROOT} made")
        for user in roots:
            changes += await self._give(user, _ROOT)
        if not await self.is_enabled():
            await self._change("AuthEnable", pb.AuthEnableRequest())
            changes.append("etcd authenticates its clients from now on")
        return tuple(changes)

    async def is_enabled(self) -> bool:
        """True if etcd authenticates its clients. Raises StoreUnavailable."""
        return await authenticates(self._connection)

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    async def _permit(self, name: str, wanted: Sequence[KeyRange]) -> list[str]:
        reply = await self._connection.call(
            "Auth/RoleGet", pb.AuthRoleGetRequest(role=name), pb.AuthRoleGetResponse
        )
        found = {(bytes(perm.key), bytes(perm.range_end)): int(perm.permType) for perm in reply.perm}
        changes = []
        for keys in wanted:
            kind = pb.Permission.READWRITE if keys.writes else pb.Permission.READ
            place = key_bytes(keys.start), key_bytes(keys.end)
            if found.pop(place, None) != kind:
                perm = pb.Permission(permType=kind, key=place[0], range_end=place[1])
                await self._change(
                    "RoleGrantPermission", pb.AuthRoleGrantPermissionRequest(name=name, perm=perm)
                )
                may = "read and write" if keys.writes else "read"
                changes.append(f"role {name} may {may} the keys from {keys.start} to before {keys.end}")
        for key, end in found:
            await self._change(
                "RoleRevokePermission", pb.AuthRoleRevokePermissionRequest(role=name, key=key, range_end=end)
            )
            changes.append(
                f"role {name} may no longer use the keys from {key_text(key)} to before {key_text(end)}"
            )
        return changes

    async def _give(self, user: str, role: str) -> list[str]:
        """Give a role to a user, and make the user if it is missing."""
        if await self._has(user, role):
            return []
        changes = []
        options = pb.AuthUserAddRequest.Options(no_password=True)
        if await self._add("UserAdd", pb.AuthUserAddRequest(name=user, options=options)):
            changes.append(f"user {user} made, without a password: for certificates with this CN")
        await self._change("UserGrantRole", pb.AuthUserGrantRoleRequest(user=user, role=role))
        return [*changes, f"user {user} has the role {role}"]

    async def _has(self, user: str, role: str) -> bool:
        """True if the user exists and has the role."""
        request = pb.AuthUserGetRequest(name=user)
        try:
            reply = await self._connection.call("Auth/UserGet", request, pb.AuthUserGetResponse)
        except StoreError as error:
            if _UNKNOWN_USER in error.message:
                return False
            raise
        return role in reply.roles

    async def _add(self, method: str, request: Any) -> bool:
        """Make a role or user. Returns False if it was there."""
        try:
            await self._change(method, request)
        except StoreError as error:
            if any(words in error.message for words in _THERE):
                return False
            if _UNKNOWN_USER in error.message:
                raise StoreRefused(
                    f"this client is no user of etcd at {self._connection.endpoint}: {error.message}",
                    remedy="use the certificate or the password of etcd's root",
                ) from None
            raise
        return True

    async def _change(self, method: str, request: Any) -> None:
        await self._connection.call(f"Auth/{method}", request, pb.AuthChangedResponse)


async def authenticates(connection: EtcdConnection) -> bool:
    """True if etcd authenticates its clients: it then refuses to tell that to all users but root.

    False for etcd 3.4, which does not answer the question. Raises StoreUnavailable.
    """
    try:
        reply = await connection.call("Auth/AuthStatus", pb.AuthStatusRequest(), pb.AuthStatusResponse)
    except AuthenticatesNobody:
        return False
    except StoreRefused:
        return True
    except StoreUnavailable:
        raise
    except StoreError as error:
        return _UNKNOWN_USER in error.message
    return bool(reply.enabled)
