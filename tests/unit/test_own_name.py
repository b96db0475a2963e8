"""A name in a run folder is one process's for as long as it lives, and no longer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gossip_caffe.errors import Conflict, EnvironmentProblem
from gossip_caffe.peer.registration import own_name as own_name_module
from gossip_caffe.peer.registration.own_name import own_name

HOLDS = """
import subprocess, sys, time
from pathlib import Path
from gossip_caffe.peer.registration.own_name import own_name
with own_name(Path(sys.argv[1]), "p0"):
    child = subprocess.Popen(["sleep", "600"], close_fds=False)
    print(child.pid, flush=True)
    time.sleep(600)
"""


def lock(run_dir: Path) -> Path:
    return run_dir / "locks" / "p0.lock"


def test_a_second_process_is_told_which_one_has_the_name(tmp_path: Path) -> None:
    with own_name(tmp_path, "p0"):
        with (
            pytest.raises(Conflict, match=rf"'p0' is running already in {tmp_path} \(pid {os.getpid()}\)"),
            own_name(tmp_path, "p0", 0.0),
        ):
            pass
        with own_name(tmp_path, "p1"):  # another one's name is another matter
            pass
        with own_name(tmp_path / "elsewhere", "p0"):
            pass
    with own_name(tmp_path, "p0"):
        pass
    assert list((tmp_path / "locks").iterdir()) == []


def test_it_is_free_when_its_process_is_killed_though_a_child_lives_on(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(Conflict, match=rf"\(pid {holder.pid}\)"), own_name(tmp_path, "p0", 0.0):
            pass
        holder.kill()
        holder.wait()
        with own_name(tmp_path, "p0"):
            assert Path(f"/proc/{child}").exists()
    finally:
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


def test_one_that_is_just_ending_is_waited_for(tmp_path: Path) -> None:
    ending = own_name(tmp_path, "p0")
    ending.__enter__()
    later = threading.Timer(0.3, ending.__exit__, (None, None, None))
    later.start()
    with own_name(tmp_path, "p0", 60.0):
        assert lock(tmp_path).read_text().startswith(f"{os.getpid()} ")
    later.join()


def test_of_many_that_come_and_go_never_two_have_it(tmp_path: Path) -> None:
    inside, most, turns = 0, 0, 0
    guard = threading.Lock()

    def come_and_go() -> None:
        nonlocal inside, most, turns
        for _ in range(20):
            with own_name(tmp_path, "p0", 60.0):
                with guard:
                    inside, turns = inside + 1, turns + 1
                    most = max(most, inside)
                with guard:
                    inside -= 1

    before, own_name_module._LOOK_EVERY_S = own_name_module._LOOK_EVERY_S, 0.001
    try:
        threads = [threading.Thread(target=come_and_go) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        own_name_module._LOOK_EVERY_S = before
    assert (most, turns) == (1, 120)


@pytest.mark.parametrize("said", [b"", b"\x1b[2J", b"1" * 600, b"12 host\x1b\n", b"-1 host\n"])
def test_a_lock_file_that_no_holder_wrote_is_not_quoted(tmp_path: Path, said: bytes) -> None:
    with own_name(tmp_path, "p0"):
        lock(tmp_path).write_bytes(said)
        with pytest.raises(Conflict, match="has not said its number yet"), own_name(tmp_path, "p0", 0.0):
            pass


def test_one_of_another_machine_is_named_with_it(tmp_path: Path) -> None:
    with own_name(tmp_path, "p0"):
        lock(tmp_path).write_bytes(b"12 gpu3.example\n")
        with pytest.raises(Conflict, match=r"\(pid 12 on gpu3.example\)"), own_name(tmp_path, "p0", 0.0):
            pass


def test_a_link_in_the_place_of_the_lock_is_refused_and_its_target_left(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    lock(tmp_path).parent.mkdir()
    lock(tmp_path).symlink_to(victim)
    with pytest.raises(EnvironmentProblem, match="it is a link"), own_name(tmp_path, "p0"):
        pass
    assert victim.read_text() == "precious"
