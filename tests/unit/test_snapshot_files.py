"""Snapshots of a run, where plain Caffe would have written them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gossip_caffe.checkpoint.duty import due
from gossip_caffe.checkpoint.manifest import MANIFEST, MODEL, Manifest
from gossip_caffe.cluster.snapshot_files import SnapshotFiles
from gossip_caffe.errors import EnvironmentProblem, NotFound
from gossip_caffe.job.snapshots import PlannedSnapshots, snapshots_of
from gossip_caffe.job.spec import DataSpec, JobSettings, JobSpec, RateSchedule


def plan(prefix: Path | str, *, every: int = 100, after_train: bool = True) -> PlannedSnapshots:
    return PlannedSnapshots(str(prefix), every, after_train, max_iter=1000, samples_per_iteration=8)


def checkpoint(run_dir: Path, peer: str, iteration: float, weights: str = "") -> str:
    """A checkpoint of a peer after so many iterations of the job."""
    samples = int(iteration * 8)
    name = f"{samples:014d}-{peer}"
    manifest = Manifest(name, "job", "", (), samples, 0, (), peer, (peer,), 0.0)
    folder = run_dir / "checkpoints" / peer / name
    folder.mkdir(parents=True)
    (folder / MODEL).write_text(weights or f"after {iteration}")
    (folder / MANIFEST).write_bytes(manifest.to_json())
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
    assert [path.name for path in files.collect()] == ["net_iter_500.caffemodel"]
    assert (tmp_path / "net_iter_100.caffemodel").read_text() == "after 103"
    assert (tmp_path / "net_iter_500.caffemodel").read_text() == "after 520"


def test_the_result_is_the_jobs_last_checkpoint_and_replaces_what_was_there(tmp_path: Path) -> None:
    files = SnapshotFiles(plan(tmp_path / "net"), tmp_path / "run")
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
