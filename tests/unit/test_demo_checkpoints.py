"""Collecting the checkpoints of a run."""

from __future__ import annotations

from pathlib import Path

from gossip_caffe.checkpoint.manifest import MANIFEST, MODEL, Manifest
from gossip_caffe.demo.checkpoint_keeper import CheckpointKeeper


def checkpoint(run_dir: Path, peer: str, samples: int, weights: bytes = b"weights") -> Path:
    name = f"{samples:014d}-{peer}"
    manifest = Manifest(
        checkpoint=name,
        job="demo",
        job_fingerprint="",
        layout=(),
        progress_samples=samples,
        folded=0,
        done=(),
        maker=peer,
        contributors=(peer,),
        made_at=0.0,
    )
    folder = run_dir / "checkpoints" / peer / name
    folder.mkdir(parents=True)
    (folder / MODEL).write_bytes(weights)
    (folder / MANIFEST).write_bytes(manifest.to_json())
    return folder


def test_checkpoints_of_all_peers_are_kept_in_order_of_progress(tmp_path: Path) -> None:
    checkpoint(tmp_path / "run", "p1", 900)
    checkpoint(tmp_path / "run", "p0", 1000)
    checkpoint(tmp_path / "run", "p2", 50)
    keeper = CheckpointKeeper(tmp_path / "run", tmp_path / "kept")
    keeper.collect()
    assert [kept.progress_samples for kept in keeper.kept] == [50, 900, 1000]


def test_a_checkpoint_that_its_peer_removed_is_still_there(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "run", "p0", 100, b"these")
    keeper = CheckpointKeeper(tmp_path / "run", tmp_path / "kept")
    keeper.collect()
    for file in folder.iterdir():
        file.unlink()
    keeper.collect()
    assert [kept.model.read_bytes() for kept in keeper.kept] == [b"these"]


def test_one_that_is_held_twice_is_kept_once(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "run", "p0", 100)
    copy = tmp_path / "run" / "checkpoints" / "p1" / folder.name
    copy.mkdir(parents=True)
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    keeper = CheckpointKeeper(tmp_path / "run", tmp_path / "kept")
    keeper.collect()
    keeper.collect()
    assert len(keeper.kept) == 1


def test_what_is_unfinished_torn_or_half_removed_is_left_out(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    checkpoint(run_dir, "p0", 100).rename(run_dir / "checkpoints" / "p0" / ".unfinished-x")
    (checkpoint(run_dir, "p0", 200) / MANIFEST).write_bytes(b"{")
    (checkpoint(run_dir, "p0", 300) / MODEL).unlink()
    keeper = CheckpointKeeper(run_dir, tmp_path / "kept")
    keeper.collect()
    assert keeper.kept == []
