"""The cause that an etcd's log holds, in one line."""

from __future__ import annotations

import pytest

from gossip_caffe.cluster.etcd.etcd_log import why_etcd_ended
from gossip_caffe.cluster.etcd.server import _without_its_own

_STACK = r'"stacktrace":"go.etcd.io/etcd/server/v3/etcdmain.Main\n\t/tmp/etcdmain/main.go:40\nmain.main"'
_SHADOWED = (
    '{"level":"info","ts":1.0,"msg":"recognized and used environment variable","variable-name":"ETCD_X"}\n'
    '{"level":"fatal","ts":1.0,"caller":"flags/flag.go:85","msg":"conflicting environment variable",'
    '"environment-variable":"ETCD_NAME",' + _STACK + "}\n"
)
_NO_ADDRESS = (
    '{"level":"warn","ts":"x","msg":"failed to start etcd","error":"something else"}\n'
    '{"level":"fatal","ts":"x","msg":"discovery failed","error":"listen tcp 10.9.9.9:1: bind: cannot assign '
    'requested address",' + _STACK + "}\n"
)
_PANIC = (
    '{"level":"info","msg":"starting"}\n'
    "panic: failed to write header: write /x/etcd/member/wal: no space left on device\n\n"
    "goroutine 1 [running]:\nmain.main()\n\t/tmp/etcd/server/main.go:32 +0x45\n"
)
_NO_MEMORY = (
    "fatal error: failed to reserve page summary memory\n\n"
    "runtime stack:\nruntime.throw(0x1)\n\t/go/panic.go:1\n"
)


@pytest.mark.parametrize(
    ("log", "cause", "remedy"),
    [
        (_SHADOWED, "conflicting environment variable (environment-variable: ETCD_NAME)", ""),
        (
            _NO_ADDRESS,
            "discovery failed: listen tcp 10.9.9.9:1: bind: cannot assign requested address",
            "give an address of this machine",
        ),
        (
            _PANIC,
            "failed to write header: write /x/etcd/member/wal: no space left on device",
            "free some disk space",
        ),
        (
            _NO_MEMORY,
            "failed to reserve page summary memory",
            "raise or lift the limit on memory ('ulimit -v unlimited')",
        ),
        (
            '{"level":"warn","msg":"failed to verify flags","error":"bad"}\n',
            "failed to verify flags: bad",
            "",
        ),
        (
            '{"level":"panic","msg":"failed to create WAL","error":"no space left on device"}\n'
            "panic: failed to create WAL\n",
            "failed to create WAL: no space left on device",
            "free some disk space",
        ),
        ("etcd: cannot execute binary file\n", "etcd: cannot execute binary file", ""),
        ("error while loading\ngoroutine 1 [running]:\n\t/x/main.go:1\n", "error while loading", ""),
        ('{"level":"fatal","msg":torn\n', '{"level":"fatal","msg":torn', ""),
        ("[1]\n{}\n", "{}", ""),
        ("", "", ""),
    ],
)
def test_the_cause_is_told_and_no_stack(log: str, cause: str, remedy: str) -> None:
    assert why_etcd_ended(log) == (cause, remedy)


def test_a_very_long_cause_is_cut() -> None:
    cause, _ = why_etcd_ended('{"level":"fatal","msg":"' + "x" * 5000 + '"}')
    assert len(cause) == 300


def test_who_was_killed_has_not_ended_for_what_it_said_before() -> None:
    slow = '{"level":"warn","msg":"apply request took too long"}\n'
    assert why_etcd_ended(slow, was_killed=True) == ("", "")
    assert why_etcd_ended(slow)[0]
    assert "no space left" in why_etcd_ended(_PANIC, was_killed=True)[0]


def test_variables_of_another_etcd_and_of_systemd_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ETCD_NAME", "ETCD_UNSUPPORTED_ARCH", "NOTIFY_SOCKET", "GOMAXPROCS", "ETCDCTL_API"):
        monkeypatch.setenv(name, "x")
    gone = _without_its_own()
    assert {"ETCD_NAME", "NOTIFY_SOCKET"} <= set(gone)
    assert all(value is None for value in gone.values())
    assert not {"ETCD_UNSUPPORTED_ARCH", "GOMAXPROCS", "ETCDCTL_API", "PATH"} & set(gone)
