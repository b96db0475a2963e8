"""The judgement of the facts about an etcd: a pure function (``etcd_checks``)."""

from __future__ import annotations

import re

from gossip_caffe.doctor.check_result import CheckResult
from gossip_caffe.doctor.etcd_facts import EtcdFacts, MemberFacts
from gossip_caffe.membership.etcd.etcd_member import MemberStatus

LEAST_VERSION = (3, 4)
FORGETFUL = ((3, 5, 0), (3, 5, 2))
"""From and to: a member of these versions may forget acknowledged writes when it is killed (docs/dependencies.md)."""
USUAL_QUOTA_BYTES = 2 << 30
"""etcd's default, for versions that do not tell their quota."""
FULL = 0.8
SPARSE_BYTES = 512 << 20
SPARSE_RATIO = 4.0
SLOW_CALL_S = 0.1
SLOW_WRITE_S = 0.25
SKEW_S = 2.0
LONG_HISTORY = 500_000
"""More kept revisions than this mean that nothing compacts etcd: a job writes some hundred thousand in a day."""
_MB = 1 << 20


def etcd_checks(facts: EtcdFacts) -> list[CheckResult]:
    """Judge a cluster: each member by itself, then writes, history and the number of members."""
    results = [result for member in facts.members for result in _member(member)]
    answering = [member for member in facts.members if member.status is not None]
    if not answering:
        return results
    results.append(_writes(facts))
    if facts.guards_writes is not None:
        results.append(_users(guarded=facts.guards_writes))
    if facts.kept_revisions is not None:
        good = facts.kept_revisions <= LONG_HISTORY
        found = f"{facts.kept_revisions:,} revisions are kept"
        remedy = (
            "start etcd with --auto-compaction-mode=periodic --auto-compaction-retention=5m (docs/etcd.md)"
        )
        results.append(CheckResult("etcd: history", good, False, found, remedy))
    if len(facts.members) == 1:
        note = "1 member: while it is away peers train on credit; three members outlive one"
        results.append(CheckResult("etcd: members", True, False, note))
    else:
        majority = len(facts.members) // 2 + 1
        good = len(answering) >= majority
        found = f"{len(answering)} of the {len(facts.members)} that --etcd names answer"
        results.append(CheckResult("etcd: members", good, True, found, f"start {majority} or more of them"))
    return results


def _member(member: MemberFacts) -> list[CheckResult]:
    what = f"etcd {member.endpoint}"
    status = member.status
    if status is None:
        remedy = member.error.remedy if member.error is not None else ""
        why = member.error.message if member.error is not None else "no answer"
        return [CheckResult(what, False, False, why, remedy)]
    results = [_answers(what, member, status), _space(what, status)]
    if status.is_learner:
        results.append(
            CheckResult(
                what, False, True, "it is a learner, and takes no requests", "promote it, or name another one"
            )
        )
    if not status.has_leader:
        results.append(
            CheckResult(
                what, False, True, "it knows no leader", "start the other members, or mend their network"
            )
        )
    if "NOSPACE" in status.alarms:
        remedy = (
            "compact, defragment, then 'etcdctl alarm disarm' (docs/etcd.md); peers train on credit meanwhile"
        )
        results.append(CheckResult(what, False, True, "alarm NOSPACE: it refuses every write", remedy))
    if "CORRUPT" in status.alarms:
        remedy = "see 'etcdctl alarm list', and replace the member whose data differs"
        results.append(CheckResult(what, False, True, "alarm CORRUPT: it refuses every write", remedy))
    if member.ahead_s is not None and abs(member.ahead_s) > SKEW_S:
        found = f"its clock is {abs(member.ahead_s):.0f} s {'ahead' if member.ahead_s > 0 else 'behind'}"
        remedy = "set the clocks by NTP: reports order the events of several machines by their clocks"
        results.append(CheckResult(what, False, False, found, remedy))
    return results


def _answers(what: str, member: MemberFacts, status: MemberStatus) -> CheckResult:
    version = _numbers(status.version)
    role = "leader" if status.is_leader else "follower"
    found = f"version {status.version}, {role}, answers in {member.latency_s * 1000:.0f} ms"
    if version and version < LEAST_VERSION:
        return CheckResult(what, False, True, found, "use etcd 3.4 or newer")
    if FORGETFUL[0] <= version <= FORGETFUL[1]:
        note = f"{found}; this version may forget its last writes when it is killed"
        return CheckResult(
            what, False, False, note, "use 3.5.6 or newer where the job must not lose a second"
        )
    if member.latency_s > SLOW_CALL_S:
        return CheckResult(
            what, False, False, found, "give it a nearer machine, a faster disk, or less other work"
        )
    return CheckResult(what, True, False, found)


def _space(what: str, status: MemberStatus) -> CheckResult:
    what = f"{what}: space"
    quota = status.quota_bytes or USUAL_QUOTA_BYTES
    told = "" if status.quota_bytes else " (etcd's default; this version does not tell its own)"
    found = (
        f"{status.file_bytes / _MB:,.0f} MB in its file, {status.used_bytes / _MB:,.0f} MB of them used; "
        f"quota {quota / _MB:,.0f} MB{told}"
    )
    if status.file_bytes > FULL * quota:
        remedy = "compact and defragment it, or raise --quota-backend-bytes: a full etcd refuses all writes"
        return CheckResult(what, False, False, found, remedy)
    if status.file_bytes > SPARSE_BYTES and status.file_bytes > SPARSE_RATIO * status.used_bytes:
        return CheckResult(what, False, False, found, "'etcdctl defrag' makes the file smaller")
    return CheckResult(what, True, False, found)


def _writes(facts: EtcdFacts) -> CheckResult:
    if facts.write_error is not None:
        return CheckResult.of_error("etcd: writes", facts.write_error)
    took_s = facts.write_s or 0.0
    good = took_s <= SLOW_WRITE_S
    found = f"a key under a lease was written in {took_s * 1000:.0f} ms"
    remedy = "give etcd a faster disk: each write waits for fsync"
    return CheckResult("etcd: writes", good, False, found, remedy)


def _users(*, guarded: bool) -> CheckResult:
    if guarded:
        return CheckResult(
            "etcd: users", True, False, "it authenticates its clients, and each has the rights of its roles"
        )
    remedy = "'gossip-caffe etcd authenticate', and roles by 'gossip-caffe etcd roles JOB' (docs/security.md)"
    found = "it authenticates nobody: whoever has a certificate of its CA may write every job"
    return CheckResult("etcd: users", False, False, found, remedy)


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version such as 3.5.1 or 3.6.0-rc.1; () if it has none."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    return tuple(int(number or 0) for number in found.groups()) if found else ()
