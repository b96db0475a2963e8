"""The reasons for which etcd refuses a request, each with a remedy for the user."""

from __future__ import annotations

from gossip_caffe.errors import WritesRefused

_REMEDIES = (
    ("database space exceeded", "compact, defragment, then 'etcdctl alarm disarm'"),
    ("too many requests", "it is overloaded: give it a faster disk, or the job an etcd of its own"),
    ("corrupt", "see 'etcdctl alarm list', and replace the member whose data differs"),
    ("request is too large", "set --max-request-bytes of etcd to its default, 1.5 MiB, or to more"),
    ("too many operations", "set --max-txn-ops of etcd to its default, 128, or to more"),
)
_ALARMS = {"NOSPACE": "mvcc: database space exceeded", "CORRUPT": "corrupt cluster"}


def write_refused(detail: str) -> WritesRefused:
    """The error for a write that etcd refused; ``detail`` is etcd's message."""
    why = detail.strip().removeprefix("etcdserver: ")
    return WritesRefused(f"etcd refuses writes: {why}", remedy=_remedy(why))


def refused_by_alarm(alarms: str) -> WritesRefused | None:
    """The error that writes meet under the listed alarms of a member; None when none of the alarms refuses writes."""
    for alarm, detail in _ALARMS.items():
        if f"alarm:{alarm}" in alarms:
            return write_refused(detail)
    return None


def _remedy(why: str) -> str:
    for sign, remedy in _REMEDIES:
        if sign in why.lower():
            return remedy
    return "see etcd's log"
