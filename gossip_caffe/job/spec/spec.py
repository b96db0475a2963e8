"""A job: one model being trained, with everything that a peer needs to take part except the data itself.

It is stored in etcd as JSON, once, and never changes: all peers read the same spec.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass

from gossip_caffe.errors import UsageError
from gossip_caffe.job.spec.data_spec import (
    ANNOTATED,
    MOST_TRIALS,
    SOURCE_KINDS,
    BoxesSpec,
    DataSpec,
    FedLayer,
    ImageSpec,
    LabelBound,
    SamplerSpec,
    SourceSpec,
    Span,
    TopSpec,
    TransformSpec,
)
from gossip_caffe.job.spec.fields import read_fields, read_stored
from gossip_caffe.job.spec.settings import (
    LATER_SETTINGS,
    MOST_RANKS,
    JobSettings,
    checked_setting,
    with_overrides,
)

__all__ = [
    "ANNOTATED",
    "MOST_TRIALS",
    "SOURCE_KINDS",
    "BoxesSpec",
    "DataSpec",
    "FedLayer",
    "FileSpec",
    "ImageSpec",
    "JobSettings",
    "JobSpec",
    "LabelBound",
    "NetTest",
    "RateSchedule",
    "SamplerSpec",
    "SourceSpec",
    "Span",
    "StartSpec",
    "TopSpec",
    "TransformSpec",
    "read_fields",
    "with_overrides",
]

FORMAT = 4
MOST_CHUNKS = 10**8
"""Limit of the chunks of a data set: the ledger's keys have eight digits for a chunk's number."""
MOST_EPOCHS = 10**8


@dataclass(frozen=True, slots=True)
class NetTest:
    """One net that the solver tests: its text, with absolute paths, and the state that selects its TEST layers.

    ``iterations``: the passes that are averaged (test_iter). ``fed``: its layers that Caffe may be unable to read.
    ``compute_loss``: the mean of the whole loss is wanted, too (test_compute_loss).
    """

    text: str
    iterations: int
    level: int = 0
    stages: tuple[str, ...] = ()
    fed: tuple[FedLayer, ...] = ()
    compute_loss: bool = False


@dataclass(frozen=True, slots=True)
class FileSpec:
    """A file that must be identical for every founder of a job. ``path`` "" means no file."""

    path: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class StartSpec:
    """The files that a job's founder starts from. Without any, it starts from fresh weights.

    ``weights`` are copied by layer name, in order. ``state`` is a .solverstate of plain Caffe, with the momentum;
    ``iteration`` is the iteration at which it was written.
    """

    weights: tuple[FileSpec, ...] = ()
    state: FileSpec = FileSpec()
    iteration: int = 0

    @property
    def files(self) -> tuple[FileSpec, ...]:
        """All files that a founder reads."""
        return (*self.weights, self.state) if self.state.path else self.weights


@dataclass(frozen=True, slots=True)
class RateSchedule:
    """The solver's learning-rate policy, with the field names of Caffe's SolverParameter.

    ``first_iteration``: the policy's iteration at the first iteration of the job.
    """

    policy: str
    base_lr: float
    gamma: float = 0.0
    power: float = 0.0
    stepsize: int = 0
    stepvalues: tuple[int, ...] = ()
    max_iter: int = 0
    first_iteration: int = 0


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One job. Texts are whole prototxts.

    ``solver_text`` is the user's own. ``train_net_text`` is, too, but with absolute paths. ``solver_for_peer`` is the
    text from which a peer's solver is built: the same with the data layers replaced and the net inlined. ``tests`` is
    empty when the solver tests nothing. ``budget_samples`` is max_iter × batch × iter_size, for all peers together,
    less the samples that a snapshot had trained. ``source_texts``: the layers that bring the data, as the user wrote
    them; every .caffemodel contains them. ``creation``: random text from the command that created the job, "" without
    one. ``ranks``: the number of ranks that the net's own data layers share, 0 without such layers (own_data.py). It
    may depend on the number of peers that the creating command starts, so it is not part of the fingerprint.
    """

    name: str
    solver_text: str
    train_net_text: str
    solver_for_peer: str
    tests: tuple[NetTest, ...]
    solver_type: str
    iter_size: int
    budget_samples: int
    data: DataSpec
    schedule: RateSchedule
    settings: JobSettings
    start: StartSpec = StartSpec()
    creation: str = ""
    source_texts: tuple[str, ...] = ()
    ranks: int = 0

    @property
    def samples_per_iteration(self) -> int:
        """The samples that one iteration of one solver trains."""
        return self.data.batch_records * self.iter_size

    @property
    def ring_slots(self) -> int:
        """The batches that a peer's ring holds: at least those of two iterations."""
        return max(self.settings.prefetch_batches, 2 * self.iter_size)

    def iteration_at(self, progress_samples: int) -> int:
        """Caffe's iteration count after so many samples of the whole job."""
        return self.schedule.first_iteration + progress_samples // self.samples_per_iteration

    @property
    def first_record(self) -> int:
        """The records that plain Caffe had read at the job's first iteration, counted through all epochs.

        A job that resumes from a snapshot continues after them. 0 where the net generates its own data.
        """
        return self.schedule.first_iteration * self.samples_per_iteration if self.data.sources else 0

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that defines the training: two jobs with the same fingerprint train the same."""
        content = {
            key: value
            for key, value in dataclasses.asdict(self).items()
            if key not in {"name", "creation", "source_texts", "ranks"}
        }
        tested = [layer["source"] for test in content["tests"] for layer in test["fed"]]
        for source in (*content["data"]["sources"], *tested):
            del source["labels"]  # derived from the net, and only as far as Caffe was asked
            if source["kind"] not in ANNOTATED.values():
                del source["boxes"]  # jobs of older versions keep their fingerprint
            for entry in (source, *source["tops"]):
                if not entry["batch_records"]:
                    del entry["batch_records"]  # jobs of older versions keep their fingerprint
            for top in source["tops"]:
                if not top["boxes"]:
                    del top["boxes"]  # jobs of older versions keep their fingerprint
        usual = JobSettings()
        for name in LATER_SETTINGS:
            if content["settings"][name] == getattr(usual, name):
                del content["settings"][name]  # jobs of older versions keep their fingerprint
        for test in content["tests"]:
            if not test["compute_loss"]:
                del test["compute_loss"]  # jobs of older versions keep their fingerprint
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def identity(self) -> str:
        """The identity of the job's checkpoints. The same job created again, in another etcd, has another identity."""
        return hashlib.sha256(f"{self.fingerprint} {self.creation}".encode()).hexdigest()[:12]

    def to_json(self) -> bytes:
        """The job as it is stored."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, value: bytes) -> JobSpec:
        """Parse a stored job. Raises UsageError with the name of the field that is missing or wrong."""
        return _checked(read_stored(cls, value, FORMAT, "job"))


_ONE_AT_LEAST = 1
_MOST = 2**62
_AS_MUCH_AS_FITS = 2**31 - 1


def _checked(spec: JobSpec) -> JobSpec:
    """The parsed job, when every value in it is one that creating a job could give. Raises UsageError otherwise."""
    for name in (field.name for field in dataclasses.fields(JobSettings)):
        value = getattr(spec.settings, name)
        checked_setting(name, value, f"job.settings.{name} is {value!r:.80}")
    data = spec.data
    _within(spec.budget_samples, _ONE_AT_LEAST, _MOST, "job.budget_samples")
    _within(spec.ranks, 0, MOST_RANKS, "job.ranks")
    _within(spec.iter_size, _ONE_AT_LEAST, _AS_MUCH_AS_FITS, "job.iter_size")
    _within(data.records, _ONE_AT_LEAST, _MOST, "job.data.records")
    _within(data.chunk_records, _ONE_AT_LEAST, _MOST, "job.data.chunk_records")
    _within(data.batch_records, _ONE_AT_LEAST, _AS_MUCH_AS_FITS, "job.data.batch_records")
    _within(-(-data.records // data.chunk_records), _ONE_AT_LEAST, MOST_CHUNKS, "job's chunks")
    _within(-(-spec.budget_samples // data.records), _ONE_AT_LEAST, MOST_EPOCHS, "job's epochs")
    tested = [layer.source for test in spec.tests for layer in test.fed]
    for source in (*data.sources, *tested):
        if source.kind not in SOURCE_KINDS:
            raise UsageError(
                f"job.data: {source.kind!r:.80} is no kind of data", remedy="create the job again"
            )
        _within(
            source.batch_records, 0, data.batch_records, f"job.data: batches of layer {source.layer!r:.80}"
        )
        for bound in source.labels:
            _within(bound.top, 0, len(source.tops) - 1, f"job.data: a label of layer {source.layer!r:.80}")
            _within(bound.classes, 0, _AS_MUCH_AS_FITS, f"job.data: the labels of layer {source.layer!r:.80}")
            values = math.prod(source.tops[bound.top].shape)
            for span in bound.spans:
                _within(span.stop, 1, values, f"job.data: the labels of layer {source.layer!r:.80}")
                _within(span.start, 0, span.stop - 1, f"job.data: the labels of layer {source.layer!r:.80}")
        for sampler in source.boxes.samplers:
            _within(sampler.max_trials, 0, MOST_TRIALS, f"job.data: a sampler of layer {source.layer!r:.80}")
            _within(
                sampler.max_sample, 0, _AS_MUCH_AS_FITS, f"job.data: a sampler of layer {source.layer!r:.80}"
            )
        for size in (size for top in source.tops for size in top.shape):
            _within(size, 0, _AS_MUCH_AS_FITS, f"job.data: the shape of layer {source.layer!r:.80}")
    return spec


def _within(value: int, low: int, high: int, where: str) -> None:
    if not low <= value <= high:
        raise UsageError(f"{where}: {value} is out of range", remedy="create the job again")
