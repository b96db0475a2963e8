"""The limits of a valid checkpoint of this job, checked on its manifest before any of its files is fetched."""

from __future__ import annotations

from dataclasses import dataclass

from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.checkpoint.formats.caffemodel import written_bytes
from gossip_caffe.checkpoint.manifest import MODEL, STATE, Manifest
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.plain import shown
from gossip_caffe.shards.epochs import Epochs

MOST_HISTORIES = 3
"""Limit of a .solverstate, as a multiple of the model's size. Adam and AdaDelta keep two values per weight."""
STATE_ROOM_BYTES = 1 << 20
MOST_UNMEASURED_BYTES = 4 << 30
"""Limit of a checkpoint that is fetched before this peer's net is built, when its right size is not known yet."""


@dataclass(frozen=True, slots=True)
class Expected:
    """The facts of a job that its checkpoints must match. ``epochs``: of the budget; ``chunks``: of an epoch.

    ``layout_fingerprint``: that of this peer's net; "" while it is not known.
    """

    job: str
    job_fingerprint: str
    job_identity: str
    budget_samples: int
    epochs: int
    chunks: int
    layout_fingerprint: str = ""

    @classmethod
    def of(cls, spec: JobSpec, layout_fingerprint: str = "") -> Expected:
        """The expectations for a job."""
        epochs = Epochs.of(spec)
        return cls(
            spec.name,
            spec.fingerprint,
            spec.identity,
            spec.budget_samples,
            epochs.count,
            epochs.chunks,
            layout_fingerprint,
        )

    def objection(self, manifest: Manifest) -> str:
        """Why a manifest does not belong to a valid checkpoint of this job; "" when it may."""
        if manifest.job_fingerprint != self.job_fingerprint or manifest.job != self.job:
            return f"its manifest is of another job ({shown(manifest.job)})"
        if manifest.job_identity not in {self.job_identity, ""}:
            return "its manifest is of an earlier or later job of the same name"
        if not 0 <= manifest.progress_samples <= self.budget_samples:
            return f"its manifest says {manifest.progress_samples:,} of {self.budget_samples:,} samples"
        if manifest.folded > self.epochs or not all(self._is_work(*entry) for entry in manifest.done):
            return "its manifest lists epochs or chunks that the job does not have"
        return self._objection_to_net(manifest)

    def _objection_to_net(self, manifest: Manifest) -> str:
        if self.layout_fingerprint:
            same = manifest.weight_layout().fingerprint == self.layout_fingerprint
            return "" if same else "its manifest is of another net"
        if total_bytes(manifest) > MOST_UNMEASURED_BYTES:
            return f"its files have {total_bytes(manifest):,} bytes, and the net is not known yet"
        return ""

    def _is_work(self, epoch: int, ranges: tuple[tuple[int, int], ...]) -> bool:
        """True for ascending ranges of chunks of an epoch: so their total is never more than one epoch."""
        before = 0
        for start, stop in ranges:
            if not before <= start < stop <= self.chunks:
                return False
            before = stop
        return 0 <= epoch < self.epochs


def disagreement(manifest: Manifest, announcement: Announcement) -> str:
    """Why a manifest does not belong to the announced checkpoint, of any job; "" when it does.

    The sizes of its files are checked against its own layout.
    """
    if manifest.checkpoint != announcement.checkpoint:
        return f"its manifest is that of {manifest.checkpoint}"
    if manifest.progress_samples != announcement.progress_samples:
        return f"it was announced at {announcement.progress_samples:,} samples, not {manifest.progress_samples:,}"
    return _wrong_sizes(manifest)


def _wrong_sizes(manifest: Manifest) -> str:
    sizes = {entry.name: entry.size_bytes for entry in manifest.files}
    if MODEL not in sizes:
        return f"it has no {MODEL}"
    try:
        model_bytes = written_bytes(manifest.weight_layout())
    except ValueError:
        return "its structure is that of no net"
    if sizes[MODEL] != model_bytes:
        return f"its {MODEL} has {sizes[MODEL]:,} bytes, where its layout makes {model_bytes:,}"
    most_bytes = MOST_HISTORIES * model_bytes + STATE_ROOM_BYTES
    if sizes.get(STATE, 0) > most_bytes:
        return f"its {STATE} has {sizes[STATE]:,} bytes, and no solver of its layout has more than {most_bytes:,}"
    return ""


def total_bytes(manifest: Manifest) -> int:
    """The total size of a checkpoint's files, in bytes."""
    return sum(entry.size_bytes for entry in manifest.files)
