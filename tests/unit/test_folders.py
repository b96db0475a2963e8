"""Folders and files of one user: what is taken, what is refused, and that the refused is left as it was."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gossip_caffe.errors import EnvironmentProblem
from gossip_caffe.system.folders import folder_within, open_within, own_folder

NOBODY = 65534
INSTEAD = "give another one"
IS_ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not IS_ROOT, reason="only root can make what another user owns")


@pytest.fixture(autouse=True)
def any_umask() -> Iterator[None]:
    """Nothing depends on the user's."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("make", [own_folder, folder_within])
def test_what_is_made_is_for_nobody_else_with_all_that_was_missing_above_it(
    tmp_path: Path, make: Callable[[Path, str], None]
) -> None:
    make(tmp_path / "a" / "b" / "c", INSTEAD)
    make(tmp_path / "a" / "b" / "c", INSTEAD)
    assert {mode(tmp_path / part) for part in ("a", "a/b", "a/b/c")} == {0o700}


@pytest.mark.parametrize("taken", [0o700, 0o750, 0o755, 0o711, 0o500])
def test_a_folder_that_nobody_else_may_write_is_taken_as_it_is(tmp_path: Path, taken: int) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(taken)
    own_folder(folder, INSTEAD)
    folder_within(folder, INSTEAD)
    assert mode(folder) == taken


@pytest.mark.parametrize("refused", [0o777, 0o1777, 0o770, 0o720, 0o702, 0o2775])
@pytest.mark.parametrize("make", [own_folder, folder_within])
def test_a_folder_that_others_may_write_is_refused_with_the_remedy(
    tmp_path: Path, refused: int, make: Callable[[Path, str], None]
) -> None:
    folder = tmp_path / "it's shared"
    folder.mkdir()
    folder.chmod(refused)
    with pytest.raises(EnvironmentProblem) as error:
        make(folder, INSTEAD)
    assert f"can be written by other users (mode {refused:04o}); give another one" in str(error.value)
    assert "chmod go-w '" in str(error.value)
    assert mode(folder) == refused


def test_a_folder_is_judged_and_not_what_is_above_it(tmp_path: Path) -> None:
    above = tmp_path / "above"
    above.mkdir()
    for open_to_all in (0o777, 0o1777):
        above.chmod(open_to_all)
        own_folder(above / f"run-{open_to_all}", INSTEAD)


@as_root
@pytest.mark.parametrize("make", [own_folder, folder_within])
def test_another_users_folder_is_refused(tmp_path: Path, make: Callable[[Path, str], None]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    os.chown(folder, NOBODY, NOBODY)
    with pytest.raises(EnvironmentProblem, match=r"it is of user \w+; give another one"):
        make(folder, INSTEAD)


def test_a_link_of_ones_own_leads_to_a_folder_but_not_within_one(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(there)
    own_folder(link, INSTEAD)
    with pytest.raises(EnvironmentProblem, match="it is a link"):
        folder_within(link, INSTEAD)
    there.chmod(0o777)
    with pytest.raises(EnvironmentProblem, match="can be written by other users"):
        own_folder(link, INSTEAD)


@as_root
def test_a_link_of_somebody_else_leads_nowhere(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(there)
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(EnvironmentProblem, match=r"is a link that user \w+ made"):
        own_folder(link, INSTEAD)


@pytest.mark.parametrize("make", [own_folder, folder_within])
def test_what_is_no_folder_is_one_line(tmp_path: Path, make: Callable[[Path, str], None]) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "file/below", "dangling", "x" * 300):
        with pytest.raises(EnvironmentProblem, match="cannot use the folder"):
            make(tmp_path / name, INSTEAD)
    assert (tmp_path / "file").read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("how", ["wb", "ab", "a+", "w", "a"])
def test_a_file_is_for_nobody_else_even_one_that_was_there(tmp_path: Path, how: str) -> None:
    path = tmp_path / "log"
    open_within(path, how, INSTEAD).close()
    assert mode(path) == 0o600
    path.write_text("before")
    path.chmod(0o644)
    open_within(path, how, INSTEAD).close()
    assert mode(path) == 0o600
    assert path.read_text() == ("" if "w" in how else "before")


def linked(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def dangling(path: Path, victim: Path) -> None:
    path.symlink_to(victim.with_name("new"))


def second_name(path: Path, victim: Path) -> None:
    path.hardlink_to(victim)


def pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def folder(path: Path, _: Path) -> None:
    path.mkdir()


def unix_socket(path: Path, _: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as each:
            each.bind(path.name)
    finally:
        os.chdir(before)


@pytest.mark.parametrize("how", ["wb", "ab", "a+", "w"])
@pytest.mark.parametrize("prepare", [linked, dangling, second_name, pipe, folder, unix_socket])
def test_what_is_prepared_in_the_place_of_a_file_is_refused_and_its_target_unchanged(
    tmp_path: Path, how: str, prepare: Callable[[Path, Path], None]
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    victim.chmod(0o644)
    prepare(tmp_path / "log", victim)
    with pytest.raises(EnvironmentProblem, match=r"cannot use .*/log.*; give another one"):
        open_within(tmp_path / "log", how, INSTEAD)
    assert victim.read_text() == "precious"
    assert mode(victim) == 0o644
    assert not (tmp_path / "new").exists()


@as_root
def test_another_users_file_is_refused_and_left(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("theirs")
    os.chown(path, NOBODY, NOBODY)
    for how in ("wb", "ab"):
        with pytest.raises(EnvironmentProblem, match="it is another user's"):
            open_within(path, how, INSTEAD)
    assert path.read_text() == "theirs"
