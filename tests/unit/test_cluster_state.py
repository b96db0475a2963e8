"""The folders of a local cluster: what others own, may write or have prepared is not used."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.cluster.state.folder import ClusterState
from gossip_caffe.cluster.temporary import FRESH_S, sweep
from gossip_caffe.errors import EnvironmentProblem

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what another user owns")


def lock(state: ClusterState) -> None:
    state.lock().close()


def peers_log(state: ClusterState) -> None:
    state.open_log("p0", "ab").close()


def etcds_log(state: ClusterState) -> None:
    EtcdServer(state.etcd).start()


def test_everything_that_is_made_is_for_nobody_else(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        state = ClusterState("local", tmp_path / "a" / "state")
        lock(state)
        peers_log(state)
    finally:
        os.umask(before)
    for path in (tmp_path / "a").rglob("*"):
        assert not stat.S_IMODE(path.lstat().st_mode) & 0o077, path


@pytest.mark.parametrize(
    ("place", "use"),
    [
        ("supervisor.lock", lock),
        ("logs/p0.log", peers_log),
        ("logs", peers_log),
        pytest.param("etcd.log", etcds_log, marks=pytest.mark.needs("etcd")),
        pytest.param("etcd", etcds_log, marks=pytest.mark.needs("etcd")),
        (".", lock),
        ("..", lock),
    ],
)
def test_a_link_that_is_prepared_is_refused_and_its_target_unchanged(
    tmp_path: Path, place: str, use: Callable[[ClusterState], None]
) -> None:
    state = ClusterState("local", tmp_path / "state")
    victim = tmp_path / "victim"
    link = Path(os.path.normpath(state.folder / place))
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.suffix:
        victim.write_text("precious")
    else:
        victim.mkdir()
    link.symlink_to(victim)
    with pytest.raises(EnvironmentProblem, match=r"it is a link; .*\$GOSSIP_CAFFE_STATE"):
        use(state)
    if victim.is_dir():
        assert list(victim.iterdir()) == []
    else:
        assert victim.read_text() == "precious"


@pytest.mark.parametrize(
    ("place", "mode"),
    [(".", 0o777), (".", 0o775), ("clusters", 0o1777), ("clusters/local", 0o1777), ("clusters/local", 0o770)],
)
def test_a_folder_that_others_may_write_is_refused(tmp_path: Path, place: str, mode: int) -> None:
    folder = tmp_path / "state" / place
    folder.mkdir(parents=True)
    folder.chmod(mode)
    says = rf"written by other users \(mode {mode:04o}\); set \$GOSSIP_CAFFE"
    with pytest.raises(EnvironmentProblem, match=says):
        lock(ClusterState("local", tmp_path / "state"))


@as_root
@pytest.mark.parametrize("place", [".", "clusters", "clusters/local"])
def test_a_folder_of_another_user_is_refused(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "state" / place
    folder.mkdir(parents=True, mode=0o700)
    os.chown(folder, NOBODY, NOBODY)
    with pytest.raises(EnvironmentProblem, match="it is of user"):
        lock(ClusterState("local", tmp_path / "state"))


def test_what_another_prepared_for_a_command_that_failed_is_not_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOSSIP_CAFFE_STATE", str(tmp_path))
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("precious")
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "train-x").symlink_to(victim)
    os.utime(victim, (0, 0))
    assert FRESH_S > 0
    sweep()
    assert (victim / "file").read_text() == "precious"
