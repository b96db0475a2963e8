"""The snapshots of a run where plain Caffe would have written them, made of the cluster's checkpoints."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from gossip_caffe.checkpoint.manifest import MANIFEST, MODEL, Manifest
from gossip_caffe.errors import CheckpointRefused, EnvironmentProblem, NotFound
from gossip_caffe.job.snapshots import PlannedSnapshots


class SnapshotFiles:
    """Files that are written while a cluster whose run folder is ``run_dir`` trains; ``written``: by iteration."""

    def __init__(self, plan: PlannedSnapshots, run_dir: Path) -> None:
        self.written: dict[int, Path] = {}
        self._plan = plan
        self._run_dir = run_dir
        self._seen: set[str] = set()

    def check(self) -> None:
        """Raise EnvironmentProblem where nothing could be written, before anything is trained."""
        if not (self._plan.of_result or self._plan.every_iterations):
            return
        folder = self._plan.model(0).parent
        if not folder.is_dir():
            raise EnvironmentProblem(
                f"snapshot_prefix {self._plan.prefix!r}: there is no folder {folder}",
                remedy=f"make it with 'mkdir -p {folder}'",
            )
        if not os.access(folder, os.W_OK | os.X_OK):
            raise EnvironmentProblem(
                f"snapshot_prefix {self._plan.prefix!r}: the folder {folder} cannot be written",
                remedy="name another one in the solver",
            )

    def collect(self) -> list[Path]:
        """Write what is due by the checkpoints that are there now; returns the new files.

        Each is of the first checkpoint after its iteration. Peers make one for each snapshot that is due.
        """
        new = []
        for manifest, model in self._checkpoints():
            iteration = self._plan.iteration_of(manifest.progress_samples)
            if not 0 < iteration < self._plan.max_iter or iteration in self.written:
                continue
            try:
                new.append(self._write(model, iteration))
            except FileNotFoundError:
                continue  # its peer has removed it; the next one does
        return new

    def result(self, checkpoint: str) -> Path | None:
        """Write the weights of the finished job; None when the solver wants none.

        Raises NotFound when no peer of this machine holds the job's last checkpoint.
        """
        if not self._plan.of_result:
            return None
        for model in sorted(self._run_dir.glob(f"checkpoints/*/{checkpoint}/{MODEL}")):
            return self._write(model, self._plan.max_iter)
        raise NotFound(
            f"the job's last checkpoint {checkpoint} is not on this machine",
            remedy="take it from a peer of another machine: it is in its --run-dir",
        )

    def newest(self) -> Path | None:
        """Write the newest checkpoint, for a job that was broken off; None when there is none, or none is wanted."""
        if not self._plan.after_train:
            return None
        found = [
            (manifest.progress_samples, model)
            for manifest, model in self._checkpoints(again=True)
            if manifest.progress_samples
        ]
        for samples, model in sorted(found, reverse=True):
            iteration = self._plan.iteration_at(samples)
            try:
                return self._write(model, iteration)
            except FileNotFoundError:
                continue
        return None

    def _checkpoints(self, *, again: bool = False) -> list[tuple[Manifest, Path]]:
        """Checkpoints by progress, each once; only new ones, unless ``again``."""
        found: dict[str, tuple[Manifest, Path]] = {}
        for path in self._run_dir.glob(f"checkpoints/*/*/{MANIFEST}"):
            name = path.parent.name
            if name.startswith(".") or name in found or (name in self._seen and not again):
                continue
            try:
                found[name] = Manifest.from_json(path.read_bytes()), path.parent / MODEL
            except (FileNotFoundError, CheckpointRefused):
                continue
        self._seen |= set(found)
        return [found[name] for name in sorted(found)]

    def _write(self, model: Path, iteration: int) -> Path:
        """Put it there, whole or not at all; what was there is replaced, as Caffe does it."""
        target = self._plan.model(iteration)
        unfinished = target.with_name(f".{target.name}.unfinished-{os.getpid()}")
        try:
            link_or_copy(model, unfinished)
            unfinished.replace(target)
        except FileNotFoundError:
            raise
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise EnvironmentProblem(
                f"cannot write {target} ({error.strerror})",
                remedy="free some disk space, or check the folder",
            ) from error
        self.written[iteration] = target
        return target


def link_or_copy(source: Path, target: Path) -> None:
    """Another name of the same file where the file system has such, else a copy. Raises FileNotFoundError, OSError."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)
