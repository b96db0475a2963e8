"""An etcd of a test that authenticates its clients, by the CN of certificates or by passwords whose tokens end soon."""

from __future__ import annotations

import asyncio
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path

from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.etcd.etcd_binary import find_etcd
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.membership.etcd.access.roles import Kind, Scope
from gossip_caffe.membership.etcd.etcd_channel import EtcdSettings
from gossip_caffe.membership.etcd.etcd_roles import EtcdRoles
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.security.identity import Role
from gossip_caffe.security.security import Security
from tests.tls_files import Authority

TOKEN_S = 2
"""The life of a token without a request, in seconds."""
PATIENT = EtcdSettings(call_timeout_s=20.0, retry_for_s=60.0)


class SecuredEtcd:
    """One etcd with TLS in both directions. ``authority``: the CA of its certificate and of its clients'."""

    def __init__(self, folder: Path, flags: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.authority = Authority.make()
        own = self.authority.issue(folder / "etcd", "etcd", "127.0.0.1")
        self.server = EtcdServer(folder / "data", flags=flags, tls=own.tls)

    @property
    def endpoint(self) -> str:
        return self.server.endpoint

    def start(self, **roles: Sequence[str]) -> None:
        """Start it, make the roles of jobs (``job=("peer", "p0", "p1")``), and let it authenticate from now on."""
        self.server.start()
        root = self.of("root")
        self.etcdctl("user", "add", "root", "--no-password", by=root)
        self.etcdctl("user", "grant-role", "root", "root", by=root)
        asyncio.run(self._made(root, roles))
        self.etcdctl("auth", "enable", by=root)

    async def _made(self, root: Security, roles: dict[str, Sequence[str]]) -> None:
        made = EtcdRoles([self.endpoint], SystemClock(), random.Random(1), root)
        for job, (role, *users) in roles.items():
            await made.apply(Scope(Kind.JOB, job), Role(role), users)
        await made.close()

    def of(self, user: str, *also: str) -> Security:
        """The identity of a user by a certificate with this CN."""
        folder = self.folder / user
        if not folder.exists():
            return self.authority.issue(folder, user, *also)
        return Security(self.authority.files(folder))

    def store(self, security: Security) -> EtcdStore:
        return EtcdStore([self.endpoint], SystemClock(), random.Random(1), PATIENT, security)

    def etcdctl(self, *words: str, by: Security | None = None) -> str:
        """Run etcdctl as a user, by default etcd's root. Returns its output."""
        tls = (by or self.of("root")).tls
        assert tls is not None
        command = [str(find_etcd().with_name("etcdctl")), f"--endpoints=https://{self.endpoint}"]
        command += [f"--cacert={tls.cacert}", f"--cert={tls.cert}", f"--key={tls.key}", *words]
        ran = subprocess.run(command, check=False, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def stop(self) -> None:
        self.server.stop()


def password_of(folder: Path, user: str, password: str, tls: Security) -> Security:
    """The identity of a user by a password, over the connection of ``tls``."""
    file = folder / f"{user}.password"
    file.touch(0o600)
    file.write_text(f"{password}\n")
    return Security(tls.tls, user, file)
