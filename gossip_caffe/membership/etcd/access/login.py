"""The token with which requests say whose they are, where etcd knows users by passwords.

etcd forgets a token after some minutes without a request (``--auth-token-ttl``), and at a restart. A request that it
then refuses was not applied, and is made again with a new token.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from gossip_caffe.errors import StoreRefused, UsageError
from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.security.security import Security
from gossip_caffe.wire import etcd_pb2 as pb

LOG = logging.getLogger(__name__)
_NOT_ENABLED = "authentication is not enabled"
_STALE = ("invalid auth token", "revision of auth store is old")
_NO_TOKEN = "user name is empty"


class AuthenticatesNobody(StoreRefused):
    """A user was given to an etcd that takes orders from every program."""


class Login:
    """The token of one client, the same for all members of the cluster. The password is in no log and no message."""

    def __init__(self, security: Security) -> None:
        self._security = security
        self._token = ""
        self._password = ""
        self._is_off = False
        self._had_token = False
        self._one_at_a_time = asyncio.Lock()

    @property
    def by_password(self) -> bool:
        """True if this client has a user and a password."""
        return bool(self._security.user)

    async def token(self, channel: Any, endpoint: str, timeout_s: float) -> str:
        """The token for a request; "" for a client without a user, and while etcd authenticates nobody.

        Raises AioRpcError, and AuthenticatesNobody when etcd has authenticated nobody from the start.
        """
        if not self.by_password or self._token or self._is_off:
            return self._token
        async with self._one_at_a_time:
            if not self._token and not self._is_off:
                await self._authenticate(channel, endpoint, timeout_s)
            return self._token

    def forget(self, token: str) -> None:
        """Do not use ``token`` again: etcd does not know it any more."""
        if token == self._token:
            self._token, self._is_off = "", False

    def is_stale(self, details: str) -> bool:
        """True for the answer to a request that may succeed with a new token, or at the second attempt.

        Roles that were changed while etcd handled a request make it refuse that request once, whatever the identity.
        """
        said = details.lower()
        return any(sign in said for sign in _STALE) or (self.by_password and _NO_TOKEN in said)

    async def _authenticate(self, channel: Any, endpoint: str, timeout_s: float) -> None:
        request = pb.AuthenticateRequest(name=self._security.user, password=self._newest_password())
        invoke = channel.unary_unary(
            "/etcdserverpb.Auth/Authenticate",
            request_serializer=pb.AuthenticateRequest.SerializeToString,
            response_deserializer=pb.AuthenticateResponse.FromString,
        )
        try:
            self._token = (await invoke(request, timeout=timeout_s)).token
            self._had_token = True
        except grpc.aio.AioRpcError as error:
            if _NOT_ENABLED not in (error.details() or ""):
                raise
            if not self._had_token:
                raise AuthenticatesNobody(
                    f"etcd at {endpoint} authenticates nobody: --user {self._security.user} is of no use there, and "
                    "every program that reaches it may write",
                    remedy="enable it with 'etcdctl auth enable' (docs/security.md), or leave --user out",
                ) from error
            self._is_off = True
            LOG.warning("etcd at %s authenticates nobody any more", endpoint)

    def _newest_password(self) -> str:
        """The password in the file now; the last one while the file cannot be read."""
        try:
            self._password = self._security.password()
        except UsageError as error:
            if not self._password:
                raise
            LOG.warning("the last password is used: %s", error)
        return self._password
