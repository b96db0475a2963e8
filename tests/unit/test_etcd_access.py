"""Roles in etcd, and the words for a request that etcd does not permit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.membership.etcd.access.refused import Asked, asked_of, refusal
from gossip_caffe.membership.etcd.access.roles import PROBE, Kind, Scope, scope_of
from gossip_caffe.membership.keys import JOBS, JobKeys
from gossip_caffe.security.identity import Role
from gossip_caffe.tune.board.keys import STUDIES, StudyKeys
from gossip_caffe.wire import etcd_pb2 as pb

DENIED = "etcdserver: permission denied"


def may(scope: Scope, role: Role, key: str, *, write: bool) -> bool:
    """What etcd decides: a key is in a range that permits it."""
    return any(keys.start <= key < keys.end and (keys.writes or not write) for keys in scope.ranges(role))


def keys_of(job: JobKeys) -> Iterator[str]:
    """A key of each kind that a job has."""
    for name in dir(JobKeys):
        if isinstance(getattr(JobKeys, name), property) and name != "root":
            key = getattr(job, name)
            yield f"{key}x" if key.endswith("/") else key
    yield from (job.claim(1, 2), job.done_mark(3, 4), job.duty("checkpoint"), job.leave("p0"), job.rank(1))


def test_a_peer_writes_every_key_of_its_job_but_those_of_its_owner() -> None:
    scope, keys = Scope(Kind.JOB, "mnist"), JobKeys("mnist")
    assert scope.root == keys.root
    alone = {keys.spec, keys.stopped}
    assert {*scope.owners_alone} == alone
    for key in keys_of(keys):
        assert may(scope, Role.PEER, key, write=False)
        assert may(scope, Role.PEER, key, write=True) == (key not in alone), key
        assert scope.needed(key, writes=True) is (Role.OWNER if key in alone else Role.PEER)
        assert may(scope, Role.OWNER, key, write=True)
        assert may(scope, Role.VIEWER, key, write=False)
        assert not may(scope, Role.VIEWER, key, write=True)
        assert scope.needed(key, writes=False) is Role.VIEWER
    for owners in alone:
        assert not may(scope, Role.PEER, f"{owners}/under", write=True)


@pytest.mark.parametrize("role", Role)
def test_no_role_reaches_another_job(role: Role) -> None:
    scope = Scope(Kind.JOB, "mnist")
    for job in ("mnis", "mnist2", "mnist-t0001", "mnist.", "mnisu", "a", "z"):
        for key in keys_of(JobKeys(job)):
            assert not may(scope, role, key, write=False), key
    for key in ("/gossip-caffe/jobs/mnist", "/gossip-caffe/jobs/", "/", "/x"):
        assert not may(scope, role, key, write=False)


def test_a_studys_workers_create_its_trials_and_do_not_change_the_study() -> None:
    scope, keys = Scope(Kind.STUDY, "lr"), StudyKeys("lr")
    assert scope.root == keys.root
    trial = JobKeys("lr-t0012-r1")
    for key in (
        keys.trial(1),
        keys.claim(1),
        keys.helper("w"),
        keys.asking,
        keys.journal + "x",
        trial.spec,
        trial.stopped,
    ):
        assert may(scope, Role.PEER, key, write=True), key
    assert not may(scope, Role.PEER, keys.spec, write=True)
    assert may(scope, Role.VIEWER, trial.spec, write=False)
    assert not may(scope, Role.VIEWER, trial.spec, write=True)
    assert may(scope, Role.OWNER, keys.spec, write=True)
    for other in (JobKeys("lr"), JobKeys("lr2-t0001"), JobKeys("lr-train")):
        assert not may(scope, Role.OWNER, other.spec, write=True)
    assert scope.role(Role.PEER) != Scope(Kind.JOB, "lr").role(Role.PEER)


def test_the_folders_are_those_of_jobs_and_studies() -> None:
    assert scope_of(JobKeys("a").spec) == Scope(Kind.JOB, "a")
    assert scope_of(StudyKeys("b").spec) == Scope(Kind.STUDY, "b")
    for key in (JOBS, STUDIES, PROBE, "", "/other", f"{JOBS}A/spec", f"{JOBS}x'; rm/spec"):
        assert scope_of(key) is None


def _put(*keys: str) -> pb.TxnRequest:
    return pb.TxnRequest(
        compare=[pb.Compare(key=b"/gossip-caffe/jobs/a/fence/p0")],
        success=[pb.RequestOp(request_put=pb.PutRequest(key=key.encode())) for key in keys],
    )


@pytest.mark.parametrize(
    ("method", "request_", "asked"),
    [
        ("KV/Range", pb.RangeRequest(key=b"/gossip-caffe/jobs/a/spec"), Asked("read", JobKeys("a").spec)),
        (
            "KV/Txn",
            _put(JobKeys("a").peer("p"), JobKeys("a").spec),
            Asked("write", JobKeys("a").spec, writes=True),
        ),
        ("KV/Txn", _put("/x", JobKeys("a").peer("p")), Asked("write", "/x", writes=True)),
        ("KV/Txn", _put(), Asked("read", JobKeys("a").fence("p0"))),
        ("KV/Txn", pb.TxnRequest(), Asked("call KV/Txn")),
        ("Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=1), Asked("call Lease/LeaseRevoke")),
    ],
)
def test_of_a_request_the_key_is_named_that_needs_most(method: str, request_: object, asked: Asked) -> None:
    assert asked_of(method, request_) == asked


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            Asked("write", JobKeys("a").spec, writes=True),
            ("write", "/gossip-caffe/jobs/a/spec", "gossip-caffe-a-owner"),
        ),
        (
            Asked("watch", JobKeys("a").peers),
            ("watch", "/gossip-caffe/jobs/a/peers/", "gossip-caffe-a-viewer"),
        ),
        (Asked("read", StudyKeys("s").spec), ("gossip-caffe-study-s-viewer", "roles s --study --viewer eve")),
        (Asked("read", JOBS), ("read", "'/gossip-caffe/jobs/'", "permission denied")),
        (Asked("call Lease/LeaseRevoke"), ("call Lease/LeaseRevoke",)),
    ],
)
def test_a_refusal_is_one_line_with_user_key_and_role(asked: Asked, words: tuple[str, ...]) -> None:
    error = refusal("h:1", "eve", asked, grpc.StatusCode.PERMISSION_DENIED, DENIED)
    assert error is not None
    line = str(error)
    assert [word for word in ("'eve'", "h:1", *words) if word not in line] == []
    assert "\n" not in line
    assert error.remedy


def test_a_name_from_etcd_or_a_certificate_steers_no_terminal() -> None:
    asked = Asked("read", "/gossip-caffe/\x1b]0;x\x07")
    error = refusal("h:1", "eve\x1b[2J\n", asked, grpc.StatusCode.PERMISSION_DENIED, DENIED)
    assert str(error).isprintable()


def test_another_failure_is_no_refusal() -> None:
    assert (
        refusal("h:1", "eve", Asked("read", "/a"), grpc.StatusCode.UNAVAILABLE, "connection refused") is None
    )
