"""A trial as files: its solver and nets, with the trial's values, and its .caffemodel, verified."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path

from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.checkpoint.export import export
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.pull import pull
from gossip_caffe.checkpoint.url_store import UrlStore
from gossip_caffe.errors import CheckpointRefused, EnvironmentProblem, NotFound
from gossip_caffe.job.prototxts.paths import Paths
from gossip_caffe.job.prototxts.prototxt import Document, edited
from gossip_caffe.job.prototxts.rewriting import quoted
from gossip_caffe.job.prototxts.sources import Measure
from gossip_caffe.tune.board.trial import TrialRecord
from gossip_caffe.tune.study.spec import StudySpec
from gossip_caffe.tune.study.trial_job import NET_FIELDS, trial_job

SOLVER = "solver.prototxt"
MODEL = "model"


def trial_files(study: StudySpec, trial: TrialRecord, folder: Path, measure: Measure) -> dict[Path, str]:
    """The prototxts of a trial, for ``folder``: each path with its text. The solver comes first.

    Raises ModelError or DataError.
    """
    texts = trial_job(study, trial.number, trial.attempt, trial.values, measure).texts
    folder = folder.absolute()
    names = _names([Path(path) for path in texts.nets])
    solver = Document(texts.solver, study.solver.path)
    paths = Paths(Path(study.solver.path).parent, Path(study.working), texts.nets)
    edits = []
    for field in NET_FIELDS:
        for entry in solver.root.all(field):
            scalar = solver.scalar_of(entry)
            target = folder / names[paths.resolve(scalar.text)]
            shown = paths.shown(target)  # Caffe reads it from the folder in which the study was made
            edits.append((scalar.tokens[0].start, scalar.tokens[-1].end, quoted(shown)))
    files = {folder / SOLVER: edited(texts.solver, edits)}
    return files | {folder / names[path]: text for path, text in texts.nets.items()}


def _names(paths: list[Path]) -> dict[Path, str]:
    """A name for each net's file that no other has."""
    found: dict[Path, str] = {}
    for path in paths:
        name = path.name
        while name in {SOLVER, *found.values()}:
            name = f"net-{name}"
        found[path] = name
    return found


def write_files(files: Mapping[Path, str]) -> None:
    """Write texts to their files. Raises EnvironmentProblem."""
    for path, text in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        except OSError as error:
            raise EnvironmentProblem(
                f"cannot write {path} ({error.strerror})", remedy="give another --to"
            ) from None


def write_model(study: StudySpec, trial: TrialRecord, folder: Path) -> Path:
    """Fetch a complete trial's weights from the study's store, verify them, and write FOLDER/model.caffemodel.

    Raises NotFound for a trial without a checkpoint, CheckpointRefused for one that is not whole.
    """
    if not trial.checkpoint:
        raise NotFound(
            f"trial {trial.number} has no weights: it is {trial.state.value}",
            remedy="choose a complete trial",
        )
    announcement = Announcement(trial.checkpoint, trial.digest, trial.samples, 0.0, {})
    store = UrlStore(study.store, trial.folder)
    with tempfile.TemporaryDirectory(prefix="gossip-caffe-export-") as place:
        copies = CheckpointFolder(Path(place) / "checkpoints")
        try:
            asyncio.run(
                pull(
                    announcement,
                    job=trial.job,
                    client=store,
                    folder=copies,
                    rng=random.Random(0),
                    remote_store=store,
                )
            )
        except CheckpointRefused as error:
            raise CheckpointRefused(error.message, remedy=f"look at {store.url}") from None
        checkpoint = copies.path(trial.checkpoint)
        written = export(checkpoint, folder.absolute() / MODEL)
        for state in written[1:]:
            state.unlink()  # the trial's momentum is of no use: a training begins from the weights
    return written[0]
