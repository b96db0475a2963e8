"""The judgements of the doctor: pure functions of facts about an etcd, a job and its peers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.doctor.check_result import CheckResult, can_train
from gossip_caffe.doctor.etcd_checks import (
    FULL,
    LONG_HISTORY,
    SKEW_S,
    SLOW_CALL_S,
    SLOW_WRITE_S,
    USUAL_QUOTA_BYTES,
    etcd_checks,
)
from gossip_caffe.doctor.etcd_facts import EtcdFacts, MemberFacts, ahead_of
from gossip_caffe.doctor.job_checks import available_bytes, memory_check, source_check
from gossip_caffe.doctor.peer_checks import peer_check
from gossip_caffe.errors import DataError, StoreRefused, StoreUnavailable
from gossip_caffe.gossip.transport.reach import PortFacts
from gossip_caffe.job.spec.data_spec import SourceSpec
from gossip_caffe.job.spec.spec import TopSpec
from gossip_caffe.membership.etcd.etcd_member import MemberStatus
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.solver.checks.net_size import NetSize

MB = 1 << 20
HEALTHY = MemberStatus("3.5.17", 20 * MB, 18 * MB, 4096 * MB, True, True, False, (), 1000, 0.002)
MEMBER = MemberFacts("10.0.0.5:2379", HEALTHY, latency_s=0.002, ahead_s=0.1)
ETCD = EtcdFacts((MEMBER,), 0.004, kept_revisions=900)


def with_status(**changes: Any) -> EtcdFacts:
    return replace(ETCD, members=(replace(MEMBER, status=replace(HEALTHY, **changes)),))


def faults(facts: EtcdFacts) -> list[CheckResult]:
    return [result for result in etcd_checks(facts) if not result.good]


def test_of_a_healthy_etcd_nothing_is_to_be_done() -> None:
    assert faults(ETCD) == []
    assert can_train(etcd_checks(ETCD))


@pytest.mark.parametrize(
    ("facts", "needed", "found", "remedy"),
    [
        (with_status(alarms=("NOSPACE",)), True, "NOSPACE", "alarm disarm"),
        (with_status(alarms=("CORRUPT",)), True, "CORRUPT", "replace the member"),
        (with_status(has_leader=False), True, "no leader", "other members"),
        (with_status(is_learner=True), True, "learner", "promote"),
        (with_status(version="3.3.25"), True, "3.3.25", "3.4 or newer"),
        (with_status(version="3.5.1"), False, "forget", "3.5.6"),
        (with_status(version="3.5.0-rc.1"), False, "forget", "3.5.6"),
        (with_status(file_bytes=3900 * MB, used_bytes=3800 * MB), False, "quota 4,096 MB", "compact"),
        (with_status(file_bytes=1900 * MB, used_bytes=1800 * MB, quota_bytes=0), False, "default", "compact"),
        (with_status(file_bytes=900 * MB), False, "18 MB of them used", "defrag"),
        (replace(ETCD, members=(replace(MEMBER, latency_s=2 * SLOW_CALL_S),)), False, "200 ms", "nearer"),
        (replace(ETCD, members=(replace(MEMBER, ahead_s=-2 * SKEW_S),)), False, "4 s behind", "NTP"),
        (replace(ETCD, members=(replace(MEMBER, ahead_s=2 * SKEW_S),)), False, "4 s ahead", "NTP"),
        (replace(ETCD, write_s=2 * SLOW_WRITE_S), False, "500 ms", "fsync"),
        (replace(ETCD, guards_writes=False), False, "authenticates nobody", "etcd authenticate"),
        (replace(ETCD, kept_revisions=LONG_HISTORY + 1), False, "revisions", "auto-compaction"),
        (
            replace(ETCD, write_s=None, write_error=StoreRefused("no permission", remedy="grant it")),
            True,
            "no permission",
            "grant it",
        ),
    ],
)
def test_each_fault_of_an_etcd_has_its_remedy(
    facts: EtcdFacts, needed: bool, found: str, remedy: str
) -> None:
    (fault,) = faults(facts)
    assert fault.needed == needed
    assert can_train(etcd_checks(facts)) != needed
    assert found in fault.found
    assert remedy in fault.remedy


def test_a_member_that_does_not_answer_is_one_line_and_a_lost_majority_is_a_fault() -> None:
    gone = MemberFacts("10.0.0.6:2379", error=StoreUnavailable("cannot reach etcd at 10.0.0.6:2379"))
    three = replace(ETCD, members=(MEMBER, replace(MEMBER, endpoint="10.0.0.7:2379"), gone))
    (fault,) = faults(three)
    assert not fault.needed
    assert "10.0.0.6" in fault.found
    two_gone = replace(ETCD, members=(MEMBER, gone, replace(gone, endpoint="10.0.0.8:2379")))
    assert not can_train(etcd_checks(two_gone))
    nobody = EtcdFacts((gone,), None)
    assert [result.good for result in etcd_checks(nobody)] == [False]


@given(st.integers(1, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_an_etcd_that_is_nearly_full_is_never_called_good(file: int, used: int, quota: int) -> None:
    limit = quota or USUAL_QUOTA_BYTES
    facts = with_status(file_bytes=file, used_bytes=min(used, file), quota_bytes=quota)
    assert (file <= FULL * limit) or faults(facts)


@given(st.binary(max_size=300))
def test_no_answer_of_a_stranger_breaks_the_look_at_its_clock(answer: bytes) -> None:
    ahead_of(answer, 0.0)
    ahead_of(b"HTTP/1.1 200 OK\r\nDate: " + answer, 0.0)


def test_the_date_of_an_answer_tells_the_clock() -> None:
    answer = b"HTTP/1.1 200 OK\r\nDate: Mon, 30 Nov 2026 12:00:10 GMT\r\nContent-Length: 2\r\n\r\n{}"
    ahead_s = ahead_of(answer, 1796040000.5)
    assert ahead_s == pytest.approx(10.0)
    assert ahead_of(b"HTTP/1.1 200 OK\r\n\r\n", 0.0) is None


@dataclass(frozen=True, slots=True)
class Found:
    """A data set as it is found here."""

    records: int = 100
    shapes: tuple[tuple[int, ...], ...] = ((1, 6, 6), ())
    digest: str = "d"
    keys: tuple[str, ...] = ("00", "0a")

    def chunk_keys(self, chunk_records: int) -> tuple[str, ...]:
        assert chunk_records == 50
        return self.keys


SOURCE = SourceSpec(
    "data",
    "lmdb",
    "/data/train",
    (TopSpec("data", (1, 6, 6)), TopSpec("label", ())),
    100,
    ("00", "0a"),
    digest="d",
)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Found(records=99), "99 records instead of 100"),
        (Found(shapes=((3, 6, 6), ())), "shape"),
        (Found(digest="e"), "another order"),
        (Found(keys=("00", "0b")), "other keys"),
    ],
)
def test_data_that_is_not_the_jobs_is_named(found: Found, words: str) -> None:
    assert source_check(SOURCE, 50, lambda source: Found()).good
    result = source_check(SOURCE, 50, lambda source: found)
    assert (result.good, result.needed) == (False, True)
    assert words in result.found
    assert "--data-root" in result.remedy


def test_data_that_is_not_here_is_said_with_the_reason() -> None:
    def look(source: SourceSpec) -> Found:
        raise DataError(f"there is no {source.path}", remedy="mount it")

    result = source_check(SOURCE, 50, look)
    assert (result.good, result.found, result.remedy) == (False, "there is no /data/train", "mount it")


def test_memory_is_compared_with_the_need_of_one_peer(tmp_path: Path) -> None:
    size = NetSize(values=61_000_000, blob_bytes=300 * MB)
    need = size.peer_bytes(50 * MB)
    assert need == (4 + 3 + 2) * 4 * 61_000_000 + 350 * MB
    assert memory_check(size, 50 * MB, 8192 * MB).good
    assert not memory_check(size, 50 * MB, need).good
    assert memory_check(size, 50 * MB, None).good
    info = tmp_path / "meminfo"
    info.write_text("MemTotal: 100 kB\nMemAvailable:     2048 kB\n")
    assert available_bytes(info) == 2 * MB
    info.write_text("MemAvailable: none\n")
    assert available_bytes(info) is None
    assert available_bytes(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("facts", "good", "words"),
    [
        (PortFacts(""), True, "answers"),
        (PortFacts("", "", 4101), True, "second port 4101"),
        (PortFacts("no answer within 5 s"), False, "no answer within 5 s"),
        (PortFacts("", "no route to host", 4101), False, "second port 4101 does not: no route to host"),
    ],
)
def test_a_peer_is_judged_by_both_of_its_ports(facts: PortFacts, good: bool, words: str) -> None:
    result = peer_check(PeerRecord("p1", "1", "10.0.0.7:4100", "box", 1, "training"), facts)
    assert result.good == good
    assert words in result.found
    assert good or result.remedy
