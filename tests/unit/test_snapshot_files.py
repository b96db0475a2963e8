"""Snapshots of a run, where plain Caffe would have written them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gossip_caffe.checkpoint.duty import due
from gossip_caffe.checkpoint.manifest import MANIFEST, MODEL, STATE, Manifest
from gossip_caffe.checkpoint.solverstate import write_solverstate
from gossip_caffe.cluster.supervision.living_weights import LivingWeights
from gossip_caffe.cluster.supervision.snapshot_files import SnapshotFiles
from gossip_caffe.errors import EnvironmentProblem, NotFound
from gossip_caffe.job.prototxts.snapshots import PlannedSnapshots, snapshots_of
from gossip_caffe.job.spec.spec import DataSpec, JobSettings, JobSpec, RateSchedule
from gossip_caffe.solver.engines.layout import WeightLayout
from gossip_caffe.wire import caffe_wire_pb2 as wire


def plan(prefix: Path | str, *, every: int = 100, after_train: bool = True) -> PlannedSnapshots:
    return PlannedSnapshots(str(prefix), every, after_train, max_iter=1000, samples_per_iteration=8)


def checkpoint(run_dir: Path, peer: str, iteration: float, weights: str = "", *, state: bool = False) -> str:
    """A checkpoint of a peer after so many iterations of the job."""
    return kept(run_dir / "checkpoints", peer, iteration, weights, state=state)


def kept(
    root: Path,
    peer: str,
    iteration: float,
    weights: str,
    *,
    state: bool = False,
    folder: str = "",
    contributors: tuple[str, ...] = (),
) -> str:
    samples = int(iteration * 8)
    name = f"{samples:014d}-{peer}"
    manifest = Manifest(name, "job", "", (), samples, 0, (), peer, contributors or (peer,), 0.0)
    where = root / (folder or peer) / name
    where.mkdir(parents=True)
    (where / MODEL).write_text(weights or f"after {iteration}")
    (where / MANIFEST).write_bytes(manifest.to_json())
    if state:
        with (where / STATE).open("wb") as file:
            history = [np.array([0.5, 0.25], np.float32)]
            write_solverstate(file, iteration=int(iteration), learned_net=MODEL, history=history, step=0)
    return name


def test_what_the_solver_says_is_read_as_caffe_reads_it() -> None:
    def read(solver: str) -> PlannedSnapshots:
        schedule = RateSchedule("fixed", 0.1, max_iter=20)
        data = DataSpec((), 100, 10, 8)
        return snapshots_of(
            JobSpec("a", solver, "", "", (), "SGD", 2, 320, data, schedule, JobSettings()), "dir/own_name"
        )

    assert read("") == PlannedSnapshots("dir/own_name", 0, True, 20, 16)
    chosen = read('snapshot: 5 snapshot_prefix: "out/net" snapshot_after_train: false')
    assert chosen == PlannedSnapshots("out/net", 5, False, 20, 16)
    assert chosen.model(5) == Path("out/net_iter_5.caffemodel")
    assert chosen.of_result  # the last iteration is one of the snapshots
    assert not read("snapshot: 6 snapshot_after_train: false").of_result
    assert not read("snapshot_after_train: false").of_result
    assert read("").of_result


def test_the_first_checkpoint_after_each_interval_is_written_once(tmp_path: Path) -> None:
    files = SnapshotFiles(plan(tmp_path / "net"), tmp_path / "run")
    for iteration in (0, 99.5, 103, 150, 210):
        checkpoint(tmp_path / "run", "p0", iteration)
    assert [path.name for path in files.collect()] == ["net_iter_100.caffemodel", "net_iter_200.caffemodel"]
    checkpoint(tmp_path / "run", "p1", 290)
    assert files.collect() == []
    checkpoint(tmp_path / "run", "p1", 520)
    later = [f"net_iter_{iteration}.caffemodel" for iteration in (300, 400, 500)]
    assert [path.name for path in files.collect()] == later  # none is left out
    assert (tmp_path / "net_iter_100.caffemodel").read_text() == "after 103"
    assert all((tmp_path / name).read_text() == "after 520" for name in later)
    assert files.of_iteration == {100: 103, 200: 210, 300: 520, 400: 520, 500: 520}


def test_the_exact_snapshots_of_a_lone_peer_come_first_and_go_when_they_are_collected(tmp_path: Path) -> None:
    files = SnapshotFiles(plan(tmp_path / "net"), tmp_path / "run")
    checkpoint(tmp_path / "run", "p0", 130, "a checkpoint")
    kept(tmp_path / "run" / "snapshots", "p0", 100, "exact")
    assert [path.name for path in files.collect()] == ["net_iter_100.caffemodel"]
    assert (tmp_path / "net_iter_100.caffemodel").read_text() == "exact"
    assert list((tmp_path / "run" / "snapshots" / "p0").iterdir()) == []
    assert files.collect() == []


@pytest.mark.parametrize("several", [False, True])
def test_a_snapshot_that_is_asked_for_is_the_next_one_whatever_its_iteration(
    tmp_path: Path, several: bool
) -> None:
    files = SnapshotFiles(plan(tmp_path / "net", every=0), tmp_path / "run")
    both = ("p0", "p1")
    kept(tmp_path / "run" / "checkpoints", "p0", 10, "", contributors=both)
    assert files.collect() == []
    files.ask()
    assert files.asked
    checkpoint(tmp_path / "run", "p0", 20)  # of a peer whose weights belong to no single iteration
    assert files.collect() == []
    root = tmp_path / "run" / ("checkpoints" if several else "snapshots")
    kept(root, "p0", 31, "", contributors=both if several else ())
    assert files.collect() == [tmp_path / "net_iter_31.caffemodel"]
    assert not files.asked
    kept(tmp_path / "run" / "checkpoints", "p0", 40, "", contributors=both)
    assert files.collect() == []


def test_each_model_has_a_state_that_names_it_and_no_older_ones(tmp_path: Path) -> None:
    files = SnapshotFiles(plan(tmp_path / "net"), tmp_path / "run")
    checkpoint(tmp_path / "run", "p0", 100, state=True)
    checkpoint(tmp_path / "run", "p0", 200)
    (tmp_path / "net_iter_200.solverstate").write_text("of an earlier run")
    assert len(files.collect()) == 2
    found = wire.SolverState.FromString((tmp_path / "net_iter_100.solverstate").read_bytes())
    assert (found.iter, found.learned_net) == (100, str(tmp_path / "net_iter_100.caffemodel"))
    assert [list(blob.data) for blob in found.history] == [[0.5, 0.25]]
    assert not (tmp_path / "net_iter_200.solverstate").exists()
    assert files.states == {100: tmp_path / "net_iter_100.solverstate"}


def test_of_a_run_that_was_broken_off_the_end_of_an_iteration_is_taken_where_a_lone_peer_left_one(
    tmp_path: Path,
) -> None:
    files = SnapshotFiles(plan(tmp_path / "net"), tmp_path / "run")
    checkpoint(tmp_path / "run", "p0", 137.5)
    kept(tmp_path / "run" / "snapshots", "p0-leaving", 136, "exact", folder="p0")
    assert files.collect() == [tmp_path / "net_iter_100.caffemodel"]
    assert files.newest() == tmp_path / "net_iter_136.caffemodel"
    assert (tmp_path / "net_iter_136.caffemodel").read_text() == "exact"


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_a_snapshot_may_be_read_by_whom_the_users_umask_lets_and_no_checkpoints_mode_counts(
    tmp_path: Path, mask: int
) -> None:
    files = SnapshotFiles(plan(tmp_path / "net"), tmp_path / "run")
    name = checkpoint(tmp_path / "run", "p0", 100, state=True)
    (tmp_path / "run" / "checkpoints" / "p0" / name / MODEL).chmod(0o600)
    before = os.umask(mask)
    try:
        files.collect()
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.glob("net_iter*")}
    assert modes == {0o666 & ~mask}


def test_what_was_written_already_under_that_iteration_leaves_no_second_name(tmp_path: Path) -> None:
    files = SnapshotFiles(plan(tmp_path / "net"), tmp_path / "run")
    checkpoint(tmp_path / "run", "p0", 100)
    assert files.collect() == [tmp_path / "net_iter_100.caffemodel"]
    assert files.newest() == tmp_path / "net_iter_100.caffemodel"
    assert {path.name for path in tmp_path.iterdir()} == {"run", "net_iter_100.caffemodel"}


def test_the_result_is_the_jobs_last_checkpoint_and_replaces_what_was_there(tmp_path: Path) -> None:
    files = SnapshotFiles(plan(tmp_path / "net", every=1000), tmp_path / "run")
    checkpoint(tmp_path / "run", "p0", 1000, "not the last")
    last = checkpoint(tmp_path / "run", "p1", 1000, "the last")
    assert files.collect() == []
    target = tmp_path / "net_iter_1000.caffemodel"
    target.write_text("of an earlier run")
    assert files.result(last) == target
    assert target.read_text() == "the last"
    assert {path.name for path in tmp_path.iterdir()} == {"run", "net_iter_1000.caffemodel"}


def test_without_snapshot_after_train_there_is_no_result(tmp_path: Path) -> None:
    run = tmp_path / "run"
    last = checkpoint(run, "p0", 1000)
    assert SnapshotFiles(plan(tmp_path / "net", every=0, after_train=False), run).result(last) is None
    assert SnapshotFiles(plan(tmp_path / "net", every=0, after_train=False), run).newest() is None
    assert SnapshotFiles(plan(tmp_path / "net", every=0), run).result(last) is not None


def test_a_result_that_only_another_machine_holds_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="c9 is not on this machine"):
        SnapshotFiles(plan(tmp_path / "net"), tmp_path / "run").result("c9")


def test_a_run_that_was_broken_off_leaves_its_newest_weights_under_their_iteration(tmp_path: Path) -> None:
    files = SnapshotFiles(plan(tmp_path / "net"), tmp_path / "run")
    checkpoint(tmp_path / "run", "p0", 0)
    assert files.newest() is None  # nothing is learned yet
    checkpoint(tmp_path / "run", "p0", 130)
    files.collect()
    checkpoint(tmp_path / "run", "p1", 137.5)
    newest = files.newest()
    assert newest is not None
    assert newest.name == "net_iter_137.caffemodel"
    assert newest.read_text() == "after 137.5"


def test_a_folder_that_is_not_there_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"there is no folder .*/out; make it with 'mkdir -p"):
        SnapshotFiles(plan(tmp_path / "out" / "net"), tmp_path).check()
    SnapshotFiles(plan(tmp_path / "out" / "net", every=0, after_train=False), tmp_path).check()
    SnapshotFiles(plan("net"), tmp_path).check()


def test_a_target_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    files = SnapshotFiles(plan(tmp_path / "net"), tmp_path / "run")
    checkpoint(tmp_path / "run", "p0", 100)
    (tmp_path / "net_iter_100.caffemodel").mkdir()
    with pytest.raises(EnvironmentProblem, match=r"cannot write .*net_iter_100.caffemodel"):
        files.collect()
    assert not [path for path in tmp_path.iterdir() if "unfinished" in path.name]


def test_a_job_that_goes_on_counts_from_its_first_iteration() -> None:
    going_on = PlannedSnapshots("net", 100, True, 1000, 8, first_iteration=250)
    assert [going_on.iteration_of(8 * made) for made in (0, 49, 50, 149, 151)] == [0, 0, 300, 300, 400]
    assert [going_on.iteration_at(8 * made) for made in (0, 1)] == [250, 251]
    assert PlannedSnapshots("net", 100, True, 1000, 8, first_iteration=300).iteration_of(0) == 0


def test_a_checkpoint_is_due_when_a_snapshot_is() -> None:
    assert due(800, 700, 10_000, finished=False, alone_unsettled=False, snapshot=True).now
    assert not due(800, 700, 10_000, finished=False, alone_unsettled=False, snapshot=False).now


def living(samples: int = 8 * 400) -> LivingWeights:
    layout = WeightLayout.of([("ip", 0, (2, 2))])
    return LivingWeights(layout, np.ones(4, np.float32), ("p0",), samples)


def test_a_folder_that_was_removed_meanwhile_is_made_again(tmp_path: Path) -> None:
    files = SnapshotFiles(plan(tmp_path / "out" / "deep" / "net"), tmp_path / "run")
    last = checkpoint(tmp_path / "run", "p0", 1000)
    assert files.result(last) == tmp_path / "out" / "deep" / "net_iter_1000.caffemodel"
    assert files.elsewhere == ""


def test_weights_of_living_peers_are_written_where_caffe_would(tmp_path: Path) -> None:
    files = SnapshotFiles(plan(tmp_path / "net"), tmp_path / "run")
    assert files.save(living()) == tmp_path / "net_iter_400.caffemodel"
    assert files.save(living(8 * 1000 + 7)) == tmp_path / "net_iter_1000.caffemodel"


@pytest.mark.parametrize("what", ["result", "newest", "save"])
def test_a_result_that_its_folder_does_not_take_goes_beside_the_solver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    (tmp_path / "file").touch()  # where a folder should be
    beside = tmp_path / "solver"
    beside.mkdir()
    files = SnapshotFiles(plan(tmp_path / "file" / "net"), tmp_path / "run", beside)
    last = checkpoint(tmp_path / "run", "p0", 1000)
    writes: dict[str, Callable[[], Path | None]] = {
        "result": lambda: files.result(last),
        "newest": files.newest,
        "save": lambda: files.save(living(8000)),
    }
    written = writes[what]()
    assert written == beside / "net_iter_1000.caffemodel"
    assert files.elsewhere.startswith(f"cannot write {tmp_path}/file/net_iter_1000.caffemodel (")
    assert files.elsewhere.endswith(f"the weights are in {written}")
    assert {path.name for path in beside.iterdir()} == {"net_iter_1000.caffemodel"}


def test_snapshots_on_the_way_go_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    files = SnapshotFiles(plan(tmp_path / "file" / "net"), tmp_path / "run", tmp_path)
    checkpoint(tmp_path / "run", "p0", 100)
    with pytest.raises(EnvironmentProblem, match="cannot write"):
        files.collect()


def test_a_name_that_no_folder_takes_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    SnapshotFiles(plan(tmp_path / ("x" * 180)), tmp_path, tmp_path).check()
    with pytest.raises(EnvironmentProblem, match="and 255 are the most"):
        SnapshotFiles(plan(tmp_path / ("x" * 230)), tmp_path, tmp_path).check()


def test_a_file_system_without_modes_takes_the_weights_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    name = checkpoint(tmp_path, "p0", 1000, "weights")
    monkeypatch.setattr(Path, "chmod", refused)
    files = SnapshotFiles(plan(tmp_path / "m"), tmp_path, tmp_path)
    assert files.result(name) == tmp_path / "m_iter_1000.caffemodel"
    assert not files.elsewhere
