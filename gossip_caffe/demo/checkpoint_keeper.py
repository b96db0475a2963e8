"""A keeper of the weights of all checkpoints of a run: peers remove old ones, and the curve needs all of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gossip_caffe.checkpoint.manifest import MANIFEST, MODEL, Manifest
from gossip_caffe.cluster.supervision.snapshot_files import link_or_copy
from gossip_caffe.errors import CheckpointRefused


@dataclass(frozen=True, slots=True)
class KeptWeights:
    """The weights of one checkpoint, made after ``progress_samples`` samples of the job. ``model``: a .caffemodel."""

    checkpoint: str
    progress_samples: int
    model: Path


class CheckpointKeeper:
    """Copies the weights in ``run_dir``/checkpoints/<peer>/<checkpoint> of all peers into ``folder``."""

    def __init__(self, run_dir: Path, folder: Path) -> None:
        self._run_dir = run_dir
        self._folder = folder
        self._kept: dict[str, KeptWeights] = {}
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def kept(self) -> list[KeptWeights]:
        """The weights that were copied so far, the oldest first."""
        return sorted(self._kept.values(), key=lambda kept: (kept.progress_samples, kept.checkpoint))

    def collect(self) -> None:
        """Copy the weights of new checkpoints. A checkpoint appears whole, and its peer may remove it meanwhile."""
        for path in self._run_dir.glob(f"checkpoints/*/*/{MANIFEST}"):
            if path.parent.name in self._kept or path.parent.name.startswith("."):
                continue
            target = self._folder / f"{path.parent.name}.caffemodel"
            try:
                manifest = Manifest.from_json(path.read_bytes())
                link_or_copy(path.parent / MODEL, target)
            except (FileNotFoundError, CheckpointRefused):
                continue
            self._kept[manifest.checkpoint] = KeptWeights(
                manifest.checkpoint, manifest.progress_samples, target
            )
