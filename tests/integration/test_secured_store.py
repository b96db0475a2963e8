"""The store's contract on an etcd that authenticates, and the words of its refusals."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.etcd.etcd_binary import find_etcd
from gossip_caffe.cluster.etcd.own_etcd import own_etcd
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.cluster.state.folder import ClusterState
from gossip_caffe.errors import Ambiguous, StoreRefused, StoreUnavailable, UsageError, WritesRefused
from gossip_caffe.membership.etcd.access.roles import Kind, Scope
from gossip_caffe.membership.etcd.etcd_roles import EtcdRoles
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.etcd.store import Absent, Changed, Delete, DeletePrefix, Put, Reset, Store
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.security.identity import Role
from gossip_caffe.security.security import PLAIN, Security
from tests.etcd_trio import etcd_trio
from tests.secured_etcd import PATIENT, TOKEN_S, SecuredEtcd, password_of
from tests.store_contract import StoreContract, items
from tests.tls_files import Authority

JOB = "mnist"
KEYS = JobKeys(JOB)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredEtcd]:
    etcd = SecuredEtcd(tmp_path_factory.mktemp("secured"), ("--auth-token-ttl", str(TOKEN_S)))
    etcd.start(mnist=("peer", "p0"))
    for user in ("carol", "dave"):
        etcdctl = etcd.etcdctl
        etcdctl("user", "add", f"{user}:secret of {user}")
        etcdctl("user", "grant-role", user, f"gossip-caffe-{JOB}-peer")
    yield etcd
    etcd.stop()


@pytest.fixture
def prefix() -> str:
    return f"{KEYS.checkpoints}{uuid.uuid4().hex}/"


@pytest.fixture
def carol(secured: SecuredEtcd) -> Security:
    """A user by a password; her certificate's CN is no user of etcd."""
    return password_of(secured.folder, "carol", "secret of carol", secured.of("nobody"))


class TestByCertificate(StoreContract):
    @pytest.fixture
    async def store(self, secured: SecuredEtcd) -> AsyncIterator[Store]:
        store = secured.store(secured.of("p0"))
        yield store
        await store.close()


class TestByPassword(StoreContract):
    @pytest.fixture
    async def store(self, secured: SecuredEtcd, carol: Security) -> AsyncIterator[Store]:
        store = secured.store(carol)
        yield store
        await store.close()


async def test_watches_whose_token_has_ended_are_made_again_and_miss_nothing(
    secured: SecuredEtcd, carol: Security, prefix: str
) -> None:
    """A new watch on a stream with an old token makes etcd 3.5 say "permission denied"."""
    store, writer = secured.store(carol), secured.store(secured.of("p0"))
    try:
        old = store.watch(f"{prefix}old/")
        assert isinstance((await items(old, 1))[0], Reset)
        await asyncio.sleep(TOKEN_S + 1.5)  # the token's life is the thing under test
        await writer.transact([], [Put(f"{prefix}old/1", b"1")])
        new = store.watch(f"{prefix}new/")
        assert isinstance((await items(new, 1))[0], Reset)
        await writer.transact([], [Put(f"{prefix}old/2", b"2"), Put(f"{prefix}new/1", b"1")])
        seen = await items(old, 2)
        assert [item.key for item in seen if isinstance(item, Changed)] == [
            f"{prefix}old/1",
            f"{prefix}old/2",
        ]
        (change,) = await items(new, 1)
        assert isinstance(change, Changed)
        assert change.key == f"{prefix}new/1"
    finally:
        await store.close()
        await writer.close()


async def test_an_etcd_that_was_restarted_and_one_that_is_away_cost_a_user_nothing(
    tmp_path: Path,
) -> None:
    """A restart forgets all tokens; the first of two endpoints never answers."""
    etcd = SecuredEtcd(tmp_path)
    await asyncio.to_thread(etcd.start, mnist=("peer", "p0"))
    try:
        etcd.etcdctl("user", "add", "carol:x")
        etcd.etcdctl("user", "grant-role", "carol", f"gossip-caffe-{JOB}-peer")
        carol = password_of(tmp_path, "carol", "x", etcd.of("nobody"))
        store = EtcdStore(
            ["127.0.0.1:1", etcd.endpoint],
            SystemClock(),
            random.Random(1),
            PATIENT,
            carol,
        )
        lease = await store.grant(60)
        watch = store.watch(KEYS.peers)
        assert isinstance((await items(watch, 1))[0], Reset)
        etcd.server.kill()
        await asyncio.to_thread(etcd.server.start)
        key = KEYS.peer("p0")
        assert (await store.transact([], [Put(key, b"", lease.id)])).succeeded
        (change,) = await items(watch, 1)
        assert isinstance(change, Changed)
        assert change.key == key
        assert await store.renew(lease.id) > 0
        await store.close()
    finally:
        etcd.stop()


@pytest.mark.timeout(240)
async def test_a_user_by_password_goes_on_at_another_member_when_its_own_dies(tmp_path: Path) -> None:
    """One token serves all members; its lease and its watch go on."""
    control = [str(find_etcd().with_name("etcdctl"))]
    with etcd_trio(tmp_path / "trio", ("--auth-token-ttl", str(TOKEN_S))) as trio:
        where = trio.endpoints.split(",")
        root = [*control, f"--endpoints={where[0]}"]
        for words in ("user add root:x", "user grant-role root root", "user add carol:y"):
            subprocess.run([*root, *words.split()], check=True, capture_output=True)
        roles = EtcdRoles(where, SystemClock(), random.Random(1))
        await roles.apply(Scope(Kind.JOB, JOB), Role.PEER, ["carol"])
        await roles.close()
        subprocess.run([*root, "auth", "enable"], check=True, capture_output=True)
        carol = password_of(tmp_path, "carol", "y", PLAIN)
        store = EtcdStore(where, SystemClock(), random.Random(1), PATIENT, carol)
        lease = LeaseSession(store, SystemClock(), 20.0)
        await lease.start()
        watch = store.watch(KEYS.checkpoints)
        assert isinstance((await items(watch, 1))[0], Reset)
        for number in range(4):
            if number == 2:
                trio.kill(where.index(store.endpoint))
            key = KEYS.checkpoint(f"c{number}")
            while not (await store.get(key)):  # a write whose member has died may have been applied
                with contextlib.suppress(Ambiguous, StoreUnavailable, WritesRefused):
                    await store.transact([Absent(key)], [Put(key, b"", lease.id)])
        changes = await items(watch, 4)
        assert [change.key for change in changes if isinstance(change, Changed)] == [
            KEYS.checkpoint(f"c{number}") for number in range(4)
        ]
        assert lease.owns()
        await lease.close()
        await store.close()


@pytest.mark.parametrize(
    ("user", "write", "words"),
    [
        ("p0", Put(KEYS.spec, b"{}"), ("'p0'", "write", KEYS.spec, "gossip-caffe-mnist-owner", "--owner p0")),
        ("p0", Delete(KEYS.stopped), ("'p0'", "remove", KEYS.stopped, "gossip-caffe-mnist-owner")),
        ("p0", DeletePrefix(KEYS.root), ("'p0'", "remove", KEYS.root, "gossip-caffe-mnist-owner")),
        ("p0", Put(JobKeys("other").peer("p0"), b""), ("'p0'", "/jobs/other/", "gossip-caffe-other-peer")),
        (
            "vera",
            Put(KEYS.peer("p9"), b""),
            ("'vera'", KEYS.peer("p9"), "gossip-caffe-mnist-peer", "--peer vera"),
        ),
    ],
)
async def test_a_write_that_is_not_allowed_names_user_key_and_role(
    secured: SecuredEtcd, user: str, write: Put | Delete | DeletePrefix, words: tuple[str, ...]
) -> None:
    store = secured.store(secured.of(user))
    with pytest.raises(StoreRefused) as caught:
        await store.transact([], [write])
    await store.close()
    line = f"{caught.value.message}; {caught.value.remedy}"
    assert "\n" not in line
    assert [word for word in words if word not in line] == []


async def test_a_read_or_watch_that_is_not_allowed_is_one_line_at_once(
    secured: SecuredEtcd, carol: Security
) -> None:
    prefix = JobKeys("other").peers
    for security, user in ((secured.of("p0"), "p0"), (carol, "carol")):
        store = secured.store(security)
        with pytest.raises(StoreRefused) as caught:
            await store.list(prefix)
        async with asyncio.timeout(20.0):
            with pytest.raises(StoreRefused) as watching:
                await anext(store.watch(prefix))
        await store.close()
        for error in (caught.value, watching.value):
            assert f"'{user}'" in error.message
            assert prefix in error.message
            assert "gossip-caffe-other-viewer" in error.message
            assert f"--viewer {user} --apply" in error.remedy


async def test_a_wrong_password_no_user_and_a_foreign_user_are_told_apart(secured: SecuredEtcd) -> None:
    nobody = secured.of("nobody")
    wrong = password_of(secured.folder, "dave", "not this", nobody)
    for security, words in (
        (wrong, ("'dave'", "password", "--password-file")),
        (nobody, ("'nobody'", KEYS.spec, "gossip-caffe-mnist-viewer")),
    ):
        store = secured.store(security)
        with pytest.raises(StoreRefused) as caught:
            await store.get(KEYS.spec)
        await store.close()
        line = f"{caught.value.message}; {caught.value.remedy}"
        assert [word for word in words if word not in line] == []
        assert "not this" not in line


async def test_a_user_for_an_etcd_that_authenticates_nobody_is_refused(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    plain = EtcdStore(
        [etcd.endpoint],
        SystemClock(),
        random.Random(1),
        security=password_of(tmp_path, "carol", "x", PLAIN),
    )
    with pytest.raises(StoreRefused, match="authenticates nobody"):
        await plain.get("/a")
    assert not await plain.guards_writes()
    await plain.close()


async def test_whether_etcd_authenticates_is_known_to_each_user(secured: SecuredEtcd) -> None:
    for user in ("root", "p0", "nobody"):
        store = secured.store(secured.of(user))
        assert await store.guards_writes()
        await store.close()


async def test_failures_of_tls_are_told_apart_within_seconds(
    secured: SecuredEtcd, etcd: EtcdServer, tmp_path: Path
) -> None:
    good = secured.of("p0")
    foreign = Authority.make("another CA").issue(tmp_path / "foreign", "p0")
    elsewhere = EtcdServer(tmp_path / "data", tls=secured.authority.issue(tmp_path / "etcd", "elsewhere").tls)
    await asyncio.to_thread(elsewhere.start)
    for security, endpoint, words in (
        (PLAIN, secured.endpoint, "asks for certificates"),
        (foreign, secured.endpoint, "another CA than --cacert"),
        (good, elsewhere.endpoint, "is not that of etcd"),
        (good, etcd.endpoint, "speaks no TLS"),
    ):
        store = EtcdStore([endpoint], SystemClock(), random.Random(1), security=security)
        with pytest.raises(StoreUnavailable) as caught:
            await store.get(KEYS.spec)
        await store.close()
        assert words in caught.value.message
        assert endpoint in caught.value.message
    elsewhere.stop()


async def test_a_certificate_that_etcd_does_not_accept_is_told(secured: SecuredEtcd, tmp_path: Path) -> None:
    """The files fit together: the CA file holds both CAs, and etcd knows one of them."""
    other = Authority.make("another CA").issue(tmp_path, "p0")
    ours = secured.of("p0")
    assert other.tls is not None
    assert ours.tls is not None
    other.tls.cacert.write_bytes(other.tls.cacert.read_bytes() + ours.tls.cacert.read_bytes())
    store = EtcdStore([secured.endpoint], SystemClock(), random.Random(1), security=other)
    with pytest.raises(StoreUnavailable, match="does not accept this side's certificate"):
        await store.get(KEYS.spec)
    await store.close()


def test_a_certificate_that_has_ended_is_refused_before_etcd_is_asked(
    secured: SecuredEtcd, tmp_path: Path
) -> None:
    ended = secured.authority.issue(tmp_path, "p0", life_s=-60.0)
    with pytest.raises(UsageError, match="has expired"):
        EtcdStore([secured.endpoint], SystemClock(), random.Random(1), security=ended)


async def test_the_etcd_of_a_cluster_with_certificates_has_tls_on_its_port(tmp_path: Path) -> None:
    security = Authority.make().issue(tmp_path / "own", "p0", "127.0.0.1")
    server = own_etcd(ClusterState("local", tmp_path / "state"), "127.0.0.1", 0, security)
    await asyncio.to_thread(server.start)
    try:
        store = EtcdStore([server.endpoint], SystemClock(), random.Random(1), security=security)
        assert await store.get("/a") is None
        assert not await store.guards_writes()
        await store.close()
    finally:
        server.stop()
