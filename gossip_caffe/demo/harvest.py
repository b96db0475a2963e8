"""Keeps the weights of every checkpoint of a run: peers remove old ones, and the curve needs them all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gossip_caffe.checkpoint.manifest import MANIFEST, MODEL, Manifest
from gossip_caffe.cluster.snapshot_files import link_or_copy
from gossip_caffe.errors import CheckpointRefused


@dataclass(frozen=True, slots=True)
class Kept:
    """The weights of one checkpoint, after ``progress_samples`` samples of the whole job."""

    checkpoint: str
    progress_samples: int
    model: Path


class Harvest:
    """Collects from ``run_dir``/checkpoints/<peer>/<checkpoint> of all peers into ``folder``."""

    def __init__(self, run_dir: Path, folder: Path) -> None:
        self._run_dir = run_dir
        self._folder = folder
        self._kept: dict[str, Kept] = {}
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def kept(self) -> list[Kept]:
        """What was collected so far, oldest first."""
        return sorted(self._kept.values(), key=lambda kept: (kept.progress_samples, kept.checkpoint))

    def collect(self) -> None:
        """Take what is new. A checkpoint appears whole, and may vanish while it is looked at."""
        for path in self._run_dir.glob(f"checkpoints/*/*/{MANIFEST}"):
            if path.parent.name in self._kept or path.parent.name.startswith("."):
                continue
            target = self._folder / f"{path.parent.name}.caffemodel"
            try:
                manifest = Manifest.from_json(path.read_bytes())
                link_or_copy(path.parent / MODEL, target)
            except (FileNotFoundError, CheckpointRefused):
                continue
            self._kept[manifest.checkpoint] = Kept(manifest.checkpoint, manifest.progress_samples, target)
