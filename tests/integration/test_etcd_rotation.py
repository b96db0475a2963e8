"""Certificates that are replaced under a client of etcd: no lease is lost, and no watch misses a change.

GOSSIP_CAFFE_ROTATION_S: for how long, by default 20 s.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from gossip_caffe.background import checked_by_owner, owned
from gossip_caffe.clock import SystemClock
from gossip_caffe.errors import Ambiguous
from gossip_caffe.membership.etcd.access import channels
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.etcd.store import Changed, Put
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.security.security import Security
from tests.patience import PATIENCE_S
from tests.secured_etcd import TOKEN_S, SecuredEtcd, password_of
from tests.tls_files import Authority

ROTATION_S = float(os.environ.get("GOSSIP_CAFFE_ROTATION_S", "20"))
EVERY_S = 2.0
LIFE_S = 60.0
KEYS = JobKeys("mnist")


class Following:
    """A consumer of a watch, and the numbers that it has seen."""

    def __init__(self, store: EtcdStore, key: str) -> None:
        self.seen: list[int] = []
        self.resets = 0
        self._items = store.watch(key)
        self.task = owned(self._follow(), "following", checked_by_owner)

    async def _follow(self) -> None:
        async for item in self._items:
            if isinstance(item, Changed) and item.value is not None:
                self.seen.append(int(item.value.value))
            else:
                self.resets += 1


async def _lives_through_it(etcd: SecuredEtcd, user: str, security: Security) -> None:
    """Write, watch and keep leases while the files of ``user`` are replaced, now and then by no certificate."""
    store, clock = etcd.store(security), SystemClock()
    leases = [LeaseSession(store, clock, 5.0) for _ in range(3)]
    for lease in leases:
        await lease.start()
    key = KEYS.checkpoint(user)
    following = Following(store, key)
    written, replaced = 0, 0
    began_s = changed_s = clock.monotonic()
    while clock.monotonic() < began_s + ROTATION_S:
        if clock.monotonic() > changed_s + EVERY_S:
            changed_s, replaced = clock.monotonic(), replaced + 1
            etcd.authority.issue(etcd.folder / user, user, life_s=LIFE_S)
            if replaced % 3 == 0:
                (etcd.folder / user / "tls.crt").write_bytes(b"not a certificate\n")
        assert (await store.transact([], [Put(key, b"%d" % written, leases[0].id)])).succeeded
        written += 1
        await asyncio.sleep(0.02)
    async with asyncio.timeout(PATIENCE_S):
        while not following.seen or following.seen[-1] != written - 1:
            await asyncio.sleep(0.05)
    assert [lease.reason for lease in leases] == ["", "", ""]
    assert following.seen == list(range(following.seen[0], written))
    assert following.resets == 1
    assert store.certificates_changed >= replaced // 2
    for lease in leases:
        await lease.close()
    following.task.cancel()
    await store.close()


@pytest.mark.timeout(ROTATION_S + 120)
async def test_certificates_are_replaced_and_no_lease_and_no_event_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One client is known by its certificate, the other by a password with tokens of two seconds; etcd changes too."""
    etcd = SecuredEtcd(tmp_path, ("--auth-token-ttl", str(TOKEN_S)))
    await asyncio.to_thread(etcd.start, mnist=("peer", "p0"))
    etcd.etcdctl("user", "add", "carol:secret")
    etcd.etcdctl("user", "grant-role", "carol", "gossip-caffe-mnist-peer")
    carol = password_of(tmp_path, "carol", "secret", etcd.of("carol"))

    async def replaced() -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            etcd.authority.issue(tmp_path / "etcd", "etcd", "127.0.0.1", life_s=LIFE_S)

    replacing = owned(replaced(), "replacing", checked_by_owner)
    await asyncio.gather(
        _lives_through_it(etcd, "p0", etcd.of("p0")), _lives_through_it(etcd, "carol", carol)
    )
    replacing.cancel()
    assert "the last good certificate is used" in caplog.text
    etcd.stop()


async def test_a_new_certificate_that_etcd_does_not_accept_leaves_the_old_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    etcd = SecuredEtcd(tmp_path)
    await asyncio.to_thread(etcd.start, mnist=("peer", "p0"))
    security = etcd.of("p0")
    store = etcd.store(security)
    await store.get(KEYS.spec)
    foreign = Authority.make("another CA").issue(tmp_path / "foreign", "p0")
    assert foreign.tls is not None
    assert security.tls is not None
    both = foreign.tls.cacert.read_bytes() + security.tls.cacert.read_bytes()
    for path, content in (
        (security.tls.cacert, both),
        (security.tls.key, foreign.tls.key.read_bytes()),
        (security.tls.cert, foreign.tls.cert.read_bytes()),
    ):
        path.write_bytes(content)
    async with asyncio.timeout(PATIENCE_S):
        while "the old one stays in use" not in caplog.text:
            await store.get(KEYS.spec)
            await asyncio.sleep(0.1)
    etcd.authority.issue(tmp_path / "p0", "p0")
    async with asyncio.timeout(PATIENCE_S):
        while store.certificates_changed == 0:
            await store.get(KEYS.spec)
            await asyncio.sleep(0.1)
    await store.close()
    etcd.stop()


@pytest.mark.parametrize("is_write", [False, True])
async def test_a_call_on_a_connection_that_is_closed_is_no_cancelled_task(
    tmp_path: Path, is_write: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen etcd does not answer; meanwhile the channel is replaced, and closed after its patience."""
    monkeypatch.setattr(channels, "CALLS_END_S", 0.2)
    etcd = SecuredEtcd(tmp_path)
    await asyncio.to_thread(etcd.start, mnist=("peer", "p0"))
    store = etcd.store(etcd.of("p0"))
    key = KEYS.peer("p0")
    await store.transact([], [Put(key, b"1")])
    old = store._connection.channel()
    os.kill(etcd.server.pid, signal.SIGSTOP)
    call = store.transact([], [Put(key, b"2")]) if is_write else store.get(key)
    pending = asyncio.ensure_future(call)
    await asyncio.sleep(0.2)
    store._connection._channels._held.clear()
    closing = asyncio.ensure_future(old.close(channels.CALLS_END_S))
    await asyncio.wait([closing], timeout=PATIENCE_S)
    os.kill(etcd.server.pid, signal.SIGCONT)
    if is_write:
        with pytest.raises(Ambiguous):
            await pending
    else:
        assert (await pending) is not None
    await store.close()
    etcd.stop()
