"""The snapshots of a run, written where plain Caffe would write them, from files that the cluster's peers keep.

A single peer writes snapshots itself, exactly at their iterations (``peer.checkpoints.snapshots``). With several peers
a snapshot is a checkpoint: the consensus at the time at which it was made.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from gossip_caffe.checkpoint.formats.hdf5 import model_to_hdf5, state_to_hdf5
from gossip_caffe.checkpoint.manifest import MANIFEST, MODEL, STATE, Manifest
from gossip_caffe.checkpoint.solverstate import copy_state
from gossip_caffe.cluster.supervision.living_weights import LivingWeights
from gossip_caffe.errors import CheckpointRefused, EnvironmentProblem, NotFound
from gossip_caffe.job.prototxts.snapshots import PlannedSnapshots
from gossip_caffe.peer.checkpoints.snapshots import FOLDER, LEAVING


class SnapshotFiles:
    """Writes the snapshot files of a cluster whose run folder is ``run_dir``.

    ``written``: iteration → .caffemodel; ``states``: iteration → .solverstate, if there is one; ``of_iteration``:
    iteration → the iteration at which its weights were made. ``beside``: the folder of the solver file; the result is
    written there when its own folder cannot be written. ``elsewhere``: one line that says so; else "".
    """

    def __init__(self, plan: PlannedSnapshots, run_dir: Path, beside: Path = Path()) -> None:
        self.written: dict[int, Path] = {}
        self.elsewhere = ""
        self._beside = beside
        self.states: dict[int, Path] = {}
        self.of_iteration: dict[int, int] = {}
        self._plan = plan
        self._run_dir = run_dir
        self._seen: set[str] = set()
        self._before: frozenset[str] | None = None
        """The kept checkpoints at a request for a snapshot; None: no request waits."""

    def ask(self) -> None:
        """Let ``collect`` write the next snapshot of a lone peer, or the next checkpoint of several, as well."""
        self._before = self.kept

    def forget(self) -> None:
        """Forget a request that cannot be met."""
        self._before = None

    @property
    def asked(self) -> bool:
        """True while a request for a snapshot waits."""
        return self._before is not None

    def check(self) -> None:
        """Raise EnvironmentProblem if the snapshots' folder cannot be written; call it before training."""
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
                remedy="give another snapshot_prefix in the solver file",
            )
        longest = len(os.fsencode(_unfinished(self._plan.state(self._plan.max_iter)).name))
        with contextlib.suppress(OSError):
            if longest > (most := os.pathconf(folder, "PC_NAME_MAX")):
                raise EnvironmentProblem(
                    f"snapshot_prefix {self._plan.prefix!r}: a file there would have a name of {longest} bytes, and "
                    f"{most} are the most",
                    remedy="give a shorter one in the solver",
                )

    def collect(self) -> list[Path]:
        """Write the snapshots that are due and can be made now. Returns the new .caffemodel files.

        Raises EnvironmentProblem when they cannot be written; the next call tries again.
        """
        new = []
        for manifest, folder in self._kept(f"{FOLDER}/*"):
            if not _is_of_a_leaver(folder):
                iteration = self._plan.iteration_at(manifest.progress_samples)
                new.append(self._write(folder, iteration, iteration))
                self._before = None
                shutil.rmtree(folder, ignore_errors=True)
        for manifest, folder in self._kept("checkpoints/*"):
            # A lone peer also makes checkpoints, between two snapshots that are exact: only of several peers a
            # checkpoint is their snapshot.
            several = len(manifest.contributors) > 1
            if self._before is not None and folder.name not in self._before and several:
                iteration = self._plan.iteration_at(manifest.progress_samples)
                try:
                    new.append(self._write(folder, iteration, iteration))
                    self._before = None
                except FileNotFoundError:
                    break
            if folder.name in self._seen:
                continue
            for iteration in self._plan.iterations_by(manifest.progress_samples):
                if iteration in self.written:
                    continue
                try:
                    of = self._plan.iteration_at(manifest.progress_samples)
                    new.append(self._write(folder, iteration, of))
                except FileNotFoundError:
                    break  # its peer has removed the checkpoint; the next checkpoint is used
            else:
                self._seen.add(folder.name)
        return new

    def result(self, checkpoint: str) -> Path | None:
        """Write the weights of the finished job. Returns the .caffemodel; None when the solver file turns it off.

        Raises NotFound when no peer of this machine holds the job's last checkpoint.
        """
        if not self._plan.of_result:
            return None
        for model in sorted(self._run_dir.glob(f"checkpoints/*/{checkpoint}/{MODEL}")):
            last = self._plan.max_iter
            return self._write(model.parent, last, last, anywhere=True)
        raise NotFound(
            f"the job's last checkpoint {checkpoint} is not on this machine",
            remedy="copy it from the --run-dir of a peer on another machine",
        )

    def newest(self) -> Path | None:
        """Write the newest weights of an interrupted job; None when there are none, or the solver file turns it off.

        The files with which a single peer left are preferred: only they have weights and momentum of the same
        iteration.
        """
        if not self._plan.after_train:
            return None
        left = [entry for entry in self._kept(f"{FOLDER}/*") if _is_of_a_leaver(entry[1])]
        found = [entry for entry in self._kept("checkpoints/*") if entry[0].progress_samples]
        for entries in (left, found):
            for manifest, folder in sorted(
                entries, key=lambda entry: entry[0].progress_samples, reverse=True
            ):
                iteration = self._plan.iteration_at(manifest.progress_samples)
                try:
                    return self._write(folder, iteration, iteration, anywhere=True)
                except FileNotFoundError:
                    continue
        return None

    def save(self, living: LivingWeights) -> Path:
        """Write the weights of living peers, for a job whose last checkpoint could not be written.

        Raises EnvironmentProblem when they cannot be written to any of the possible folders.
        """

        def write(_: Path, target: Path) -> None:
            if not self._plan.hdf5:
                living.write(target)
                return
            with tempfile.TemporaryDirectory(prefix="gossip-caffe-") as scratch:
                living.write(Path(scratch) / MODEL)
                model_to_hdf5(Path(scratch) / MODEL, target)

        self._before = None
        iteration = min(self._plan.iteration_at(living.progress_samples), self._plan.max_iter)
        target = self._place(Path(), self._plan.model(iteration), write, anywhere=True)
        self.written[iteration], self.of_iteration[iteration] = target, iteration
        return target

    @property
    def wants_result(self) -> bool:
        """True if an interrupted job writes its weights."""
        return self._plan.after_train

    @property
    def kept(self) -> frozenset[str]:
        """The names of all checkpoints and snapshots that this machine's peers keep.

        A name that appears while peers leave is that of a checkpoint with which they left.
        """
        folders = ("checkpoints/*", f"{FOLDER}/*")
        return frozenset(folder.name for below in folders for _, folder in self._kept(below))

    def _kept(self, below: str) -> Iterator[tuple[Manifest, Path]]:
        """Yield the checkpoints in peers' folders in the order of their progress, each once, with its folder."""
        found: dict[str, tuple[Manifest, Path]] = {}
        for path in self._run_dir.glob(f"{below}/*/{MANIFEST}"):
            name = path.parent.name
            if name.startswith(".") or name in found:
                continue
            try:
                found[name] = Manifest.from_json(path.read_bytes()), path.parent
            except (FileNotFoundError, CheckpointRefused):
                continue
        yield from (found[name] for name in sorted(found))

    def _write(self, folder: Path, iteration: int, of_iteration: int, *, anywhere: bool = False) -> Path:
        """Write model and state, each whole or not at all. Existing files are replaced. Returns the model.

        Raises FileNotFoundError when the peer has removed ``folder`` meanwhile, EnvironmentProblem as ``_place``.
        """
        write_model = model_to_hdf5 if self._plan.hdf5 else link_or_copy
        target = self._place(folder / MODEL, self._plan.model(iteration), write_model, anywhere=anywhere)
        state = target.with_name(self._plan.state(iteration).name)
        self.written[iteration] = target
        self.of_iteration[iteration] = of_iteration
        if (folder / STATE).exists():
            convert = state_to_hdf5 if self._plan.hdf5 else copy_state
            self._place(folder / STATE, state, lambda source, to: convert(source, to, str(target)))
            self.states[iteration] = state
        else:
            state.unlink(missing_ok=True)  # an old state does not belong to this model
        return target

    def _place(
        self, source: Path, wanted: Path, write: Callable[[Path, Path], None], *, anywhere: bool = False
    ) -> Path:
        """Write one file whole, or not at all. Returns its path. A folder that was removed meanwhile is created again.

        ``anywhere``: if that fails, write it to another folder, and set ``elsewhere``. Raises EnvironmentProblem;
        FileNotFoundError when the source was removed.
        """
        reason: OSError | None = None
        places: list[Path] = [wanted, *(self._next_best(wanted) if anywhere else ())]
        for target in places:
            try:
                _put(source, target, write)
            except OSError as error:
                if isinstance(error, FileNotFoundError) and not source.exists():
                    raise
                reason = reason or error
                continue
            if reason is not None:
                self.elsewhere = f"cannot write {wanted} ({reason.strerror}): the weights are in {target}"
            return target
        raise EnvironmentProblem(
            f"cannot write {wanted} ({reason.strerror if reason else ''})",
            remedy="free some disk space, or check the folder",
        ) from reason

    def _next_best(self, wanted: Path) -> list[Path]:
        """Return other places for a file: beside the solver file, in the working folder, in the temporary folder."""
        folders = (self._beside, Path(), Path(tempfile.gettempdir()))
        return [folder / wanted.name for folder in folders if folder / wanted.name != wanted]


def _put(source: Path, target: Path, write: Callable[[Path, Path], None]) -> None:
    unfinished = _unfinished(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(source, unfinished)
        # A checkpoint's file is readable only by its user; this one follows the umask, where the file system has modes.
        with contextlib.suppress(PermissionError):
            unfinished.chmod(_usual_mode())
        unfinished.replace(target)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)  # if both are links to one file, ``replace`` has done nothing


def _unfinished(target: Path) -> Path:
    return target.with_name(f".{target.name}.unfinished-{os.getpid()}")


def _usual_mode() -> int:
    """Return the mode of a new file by the user's umask."""
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask


def _is_of_a_leaver(folder: Path) -> bool:
    return folder.name.endswith(f"-{LEAVING}")


def link_or_copy(source: Path, target: Path) -> None:
    """Make a hard link to ``source``, or a copy if the file system has no links. Raises FileNotFoundError, OSError."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)
