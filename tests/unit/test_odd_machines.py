"""What a machine may lack, or do otherwise, has a word and a remedy, or does no harm."""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from gossip_caffe.cluster.fleet.fleet import _of_signal
from gossip_caffe.cluster.fleet.peer_messages import in_words_of_a_cluster
from gossip_caffe.errors import EnvironmentProblem
from gossip_caffe.system import kernel
from gossip_caffe.system.folders import flush, lock
from gossip_caffe.system.host import host_name
from gossip_caffe.system.processes import no_room


def fails(number: int) -> Callable[..., None]:
    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_that_cannot_flush_is_used_all_the_same(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", fails(number))
    flush(0)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_fails_is_no_such_file_system(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", fails(number))
    with pytest.raises(OSError, match=os.strerror(number)):
        flush(0)


def test_who_else_has_a_lock_is_another_matter_than_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    with path.open("w") as one, path.open("w") as other:
        lock(one, path, "elsewhere")
        with pytest.raises(BlockingIOError):
            lock(other, path, "elsewhere")
    monkeypatch.setattr("fcntl.flock", fails(errno.ENOLCK))
    with path.open("w") as file, pytest.raises(EnvironmentProblem, match="No locks available") as caught:
        lock(file, path, "elsewhere")
    assert caught.value.remedy == "elsewhere"


@pytest.mark.parametrize(
    ("number", "refused"), [(errno.ENOSYS, True), (errno.EPERM, True), (errno.EMFILE, False)]
)
def test_a_kernel_that_refuses_a_call_is_named_and_a_limit_is_told_where_it_matters(
    number: int, *, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "memfd_create", fails(number))
    assert bool(kernel.missing()[0]) == refused
    if refused:
        with pytest.raises(EnvironmentProblem, match="memfd_create"):
            kernel.refuse_without_kernel()


def test_this_machine_lacks_nothing() -> None:
    kernel.refuse_without_kernel()


def test_a_machine_without_proc_is_told_to_mount_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_PROC", Path("/nowhere"))
    assert kernel.missing() == ("there is no /proc", "mount it: 'mount -t proc proc /proc'")


def test_a_hosts_name_that_is_no_text_can_be_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "M\udcfcller\x01 box" + "x" * 99)
    name = host_name()
    assert name.startswith(r"M\udcfcller\x01 box")
    assert name.isascii()
    assert len(name) == 64


def test_a_process_that_cannot_be_found_is_no_lack_of_memory() -> None:
    assert "still there" in no_room("x", FileNotFoundError(errno.ENOENT, "No such file")).remedy
    assert "ulimit" in no_room("x", OSError(errno.EAGAIN, "again")).remedy


def test_only_a_limit_makes_time_the_reason_of_a_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "ulimit -t" in _of_signal(signal.SIGXCPU)
    monkeypatch.setattr("resource.getrlimit", lambda _: (-1, -1))
    assert _of_signal(signal.SIGKILL) == ""
    monkeypatch.setattr("resource.getrlimit", lambda _: (5, 5))
    assert "perhaps" in _of_signal(signal.SIGKILL)
    assert _of_signal(signal.SIGTERM) == ""


def test_a_peer_of_a_cluster_is_told_of_no_option_that_the_cluster_has_not() -> None:
    line = "cannot lock x (No locks); give a --run-dir on a disk of this machine"
    assert in_words_of_a_cluster(line).endswith(
        "set $GOSSIP_CAFFE_STATE to a folder on a disk of this machine"
    )
    line = "cannot write x (full); free some disk space, or give another --run-dir"
    assert in_words_of_a_cluster(line).endswith("or set $GOSSIP_CAFFE_STATE to another folder")
