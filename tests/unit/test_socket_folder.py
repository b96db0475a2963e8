"""The folder of a local cluster's sockets: short, its user's alone, and gone with the cluster."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gossip_caffe.cluster.state.sockets import LONGEST_NAME, PREFIX, opened, remove_sockets
from gossip_caffe.errors import EnvironmentProblem
from gossip_caffe.system.unix_sockets import path_fault


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A short one: that of pytest may be too deep for a socket."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def bound() -> Iterator[list[socket.socket]]:
    sockets: list[socket.socket] = []
    yield sockets
    for each in sockets:
        each.close()


def listen(folder: Path, bound: list[socket.socket]) -> Path:
    path = folder / LONGEST_NAME
    bound.append(socket.socket(socket.AF_UNIX))
    bound[-1].bind(str(path))
    return path


def private(folder: Path) -> bool:
    return stat.S_IMODE(folder.lstat().st_mode) == 0o700 and folder.lstat().st_uid == os.geteuid()


def test_it_is_the_clusters_own_folder_where_that_is_short_enough(
    tmp_path: Path, bound: list[socket.socket]
) -> None:
    folder = opened(tmp_path / "sockets")
    assert folder == tmp_path.resolve() / "sockets"
    assert private(folder)
    listen(folder, bound)
    remove_sockets(tmp_path / "sockets")
    assert not folder.exists()


@pytest.mark.parametrize("name", ["d" * 100, "with,comma", "with\x1bescape"])
def test_it_is_elsewhere_where_the_clusters_own_folder_cannot_have_sockets(
    tmp_path: Path, name: str, bound: list[socket.socket]
) -> None:
    wanted = tmp_path / name / "sockets"
    folder = opened(wanted, {})
    assert wanted.is_symlink()
    assert wanted.resolve() == folder
    assert private(folder)
    assert not path_fault(folder / LONGEST_NAME)
    listen(folder, bound)
    again = opened(wanted, {})  # the last one was killed
    assert not folder.exists()
    remove_sockets(wanted)
    assert not again.exists()
    assert not os.path.lexists(wanted)
    remove_sockets(wanted)  # nothing is there


def test_the_users_own_runtime_folder_comes_first(tmp_path: Path) -> None:
    runtime = tmp_path / "r"
    runtime.mkdir()
    wanted = tmp_path / ("d" * 100) / "sockets"
    assert opened(wanted, {"XDG_RUNTIME_DIR": str(runtime)}).parent == runtime.resolve()
    remove_sockets(wanted)
    assert opened(wanted, {"XDG_RUNTIME_DIR": "/nowhere"}).parent != runtime.resolve()
    remove_sockets(wanted)


@pytest.mark.parametrize("name", ["victim", f"{PREFIX}victim"])
def test_a_link_that_somebody_prepared_costs_nobody_a_file(tmp_path: Path, name: str) -> None:
    victim = tmp_path / name
    victim.mkdir()
    (victim / "file").write_text("precious")
    wanted = tmp_path / "cluster" / "sockets"
    wanted.parent.mkdir(mode=0o700)
    wanted.symlink_to(victim)
    folder = opened(wanted, {})
    assert folder != victim
    assert (victim / "file").read_text() == "precious"
    remove_sockets(wanted)
    assert (victim / "file").read_text() == "precious"


def test_a_folder_that_others_may_write_is_refused(tmp_path: Path) -> None:
    wanted = tmp_path / "sockets"
    wanted.mkdir()
    (wanted / "file").write_text("")  # or it would just be made anew
    wanted.chmod(0o777)
    with pytest.raises(EnvironmentProblem, match=r"can be written by other users \(mode 0777\)"):
        opened(wanted)


def test_what_a_killed_cluster_left_elsewhere_is_swept_by_the_next_and_a_living_one_is_left(
    tmp_path: Path, bound: list[socket.socket]
) -> None:
    runtime = tmp_path / "r"
    for name in ("living", "foreign"):
        (tmp_path / ("d" * 100) / name).mkdir(parents=True)
    runtime.mkdir()
    where = {"XDG_RUNTIME_DIR": str(runtime)}
    living = opened(tmp_path / ("d" * 100) / "living" / "sockets", where)
    listen(living, bound)
    killed = runtime / f"{PREFIX}killed"
    killed.mkdir()
    listen(killed, bound)
    precious = runtime / f"{PREFIX}precious"
    precious.mkdir()
    (precious / "file").write_text("precious")
    another = opened(tmp_path / ("d" * 100) / "another" / "sockets", where)
    assert sorted(runtime.iterdir()) == sorted((living, another, precious))
    assert (living / LONGEST_NAME).is_socket()
    assert (precious / "file").read_text() == "precious"
    for name in ("living", "another"):
        remove_sockets(tmp_path / ("d" * 100) / name / "sockets")
    assert list(runtime.iterdir()) == [precious]
