"""A job: one model being trained, with all that a peer needs to take part but the data itself.

It is stored in etcd as JSON, once, and never changes: peers come and go and read the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from dataclasses import dataclass
from typing import Any, TypeVar

from gossip_caffe.errors import UsageError
from gossip_caffe.job.store_url import checked_store_url

T = TypeVar("T")
FORMAT = 3


@dataclass(frozen=True, slots=True)
class TransformSpec:
    """``transform_param`` of a data layer, named as in Caffe; ``mean_file``: path to a BlobProto or empty."""

    scale: float = 1.0
    mirror: bool = False
    crop_size: int = 0
    mean_values: tuple[float, ...] = ()
    mean_file: str = ""
    force_color: bool = False
    force_gray: bool = False


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """``image_data_param``: how image files become records; ``height`` and ``width`` 0 keep an image's own."""

    root_folder: str = ""
    height: int = 0
    width: int = 0
    color: bool = True


@dataclass(frozen=True, slots=True)
class TopSpec:
    """One output of a source layer: ``shape`` is that of a single record, float32; () for a label."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """One source layer of the TRAIN net, and where its records are.

    ``kind`` is one of SOURCE_KINDS; ``path`` the folder, the list file, or module:callable. ``chunk_keys``: for
    databases, the key of each chunk's first record, in hexadecimal, so that every peer finds a chunk without a scan.
    ``digest``: SHA-256 of what the records' numbers depend on besides their count, "" where there is no such thing.
    ``folder``: where relative names in a list file begin, as for Caffe; else they begin beside the list. ``first``: for
    a data set of the user's own, which value of its records is this layer's first top.
    """

    layer: str
    kind: str
    path: str
    tops: tuple[TopSpec, ...]
    records: int = 0
    chunk_keys: tuple[str, ...] = ()
    transform: TransformSpec = TransformSpec()
    image: ImageSpec = ImageSpec()
    digest: str = ""
    folder: str = ""
    first: int = 0


SOURCE_KINDS = ("lmdb", "leveldb", "hdf5", "images", "dataset")


@dataclass(frozen=True, slots=True)
class DataSpec:
    """The data of the TRAIN phase and how it is cut: chunks of ``chunk_records``, the last one what is left.

    Sources advance together: record n of the job is record n modulo its length of each source, and the longest one
    gives ``records``. Without sources the net makes its own data: a record is then one forward pass.
    """

    sources: tuple[SourceSpec, ...]
    records: int
    chunk_records: int
    batch_records: int

    @property
    def tops(self) -> tuple[TopSpec, ...]:
        """The outputs of all sources, in the order of the net."""
        return tuple(top for source in self.sources for top in source.tops)


@dataclass(frozen=True, slots=True)
class FedLayer:
    """A source layer of a TEST net whose data is read here, and not by Caffe."""

    source: SourceSpec
    batch_records: int


@dataclass(frozen=True, slots=True)
class NetTest:
    """One net that the solver tests: its text, with absolute paths, and the state that chooses its TEST layers.

    ``iterations``: how many passes of it are averaged (test_iter). ``fed``: its layers that Caffe may not be able to
    read.
    """

    text: str
    iterations: int
    level: int = 0
    stages: tuple[str, ...] = ()
    fed: tuple[FedLayer, ...] = ()


@dataclass(frozen=True, slots=True)
class FileSpec:
    """A file that every founder of a job must have just so; ``path`` empty: none."""

    path: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class StartSpec:
    """What a job's founder starts from; nothing of it: fresh weights.

    ``weights`` are copied in by layer name, in order. ``state`` is a plain Caffe's .solverstate, which holds the
    momentum, and ``iteration`` how far that had come.
    """

    weights: tuple[FileSpec, ...] = ()
    state: FileSpec = FileSpec()
    iteration: int = 0

    @property
    def files(self) -> tuple[FileSpec, ...]:
        """All that a founder reads."""
        return (*self.weights, self.state) if self.state.path else self.weights


@dataclass(frozen=True, slots=True)
class RateSchedule:
    """The solver's learning-rate policy, fields named as in Caffe's SolverParameter.

    The job's first iteration is the policy's ``first_iteration``.
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
class JobSettings:
    """How peers train together; each may be set with ``--set name=value`` when the job is made."""

    exchange_every_iterations: int = 8
    exchange_jitter: float = 0.2
    cadence: str = "auto"
    cadence_distance: float = 1e-4
    codec: str = "float16"
    partners: str = "uniform"
    lr_scaling: str = "sqrt"
    warmup: float = 0.05
    lease_ttl_s: float = 5.0
    checkpoint_every_samples: int = 0
    checkpoint_peers: int = 8
    keep_checkpoints: int = 5
    keep_every_samples: int = 0
    keep_best: int = 0
    checkpoint_store: str = ""
    joiner_momentum: str = "zero"
    seed: int = 1
    prefetch_batches: int = 8
    shuffle: bool = True
    corrupt_records: str = "stop"


_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_CHOICES = {
    "corrupt_records": ("stop", "skip"),
    "joiner_momentum": ("zero", "checkpoint"),
    "cadence": ("fixed", "auto"),
    "codec": ("float32", "float16", "bfloat16", "int8", "int4"),
    "partners": ("uniform", "exponential", "ring"),
    "lr_scaling": ("none", "sqrt", "linear"),
}
_RANGES = {
    "exchange_every_iterations": (1, 1_000_000),
    "exchange_jitter": (0.0, 0.9),
    "cadence_distance": (1e-9, 1.0),
    "warmup": (0.0, 1.0),
    "lease_ttl_s": (2.0, 600.0),
    "checkpoint_every_samples": (0, 2**62),
    "checkpoint_peers": (1, 1000),
    "keep_checkpoints": (1, 100_000),
    "keep_every_samples": (0, 2**62),
    "keep_best": (0, 100_000),
    "seed": (0, 2**31 - 1),
    "prefetch_batches": (2, 1024),
}


def with_overrides(settings: JobSettings, overrides: typing.Mapping[str, str]) -> JobSettings:
    """Settings with some fields given as text. Raises UsageError naming the field and what it takes."""
    known = {field.name: field for field in dataclasses.fields(JobSettings)}
    values: dict[str, Any] = {}
    for name, text in overrides.items():
        if name not in known:
            raise UsageError(
                f"there is no setting {name!r}", remedy=f"known settings: {', '.join(sorted(known))}"
            )
        kind = type(getattr(settings, name))
        try:
            value = _BOOLEANS[text.lower()] if kind is bool else kind(text)
        except (ValueError, KeyError):
            raise UsageError(
                f"--set {name}={text}: not a {kind.__name__}", remedy=f"give a {kind.__name__}"
            ) from None
        if name in _CHOICES and value not in _CHOICES[name]:
            raise UsageError(
                f"--set {name}={text}: unknown", remedy=f"choose one of {', '.join(_CHOICES[name])}"
            )
        if name in _RANGES and not _RANGES[name][0] <= value <= _RANGES[name][1]:
            low, high = _RANGES[name]
            raise UsageError(
                f"--set {name}={text}: out of range", remedy=f"give a value from {low} to {high}"
            )
        values[name] = checked_store_url(text) if name == "checkpoint_store" else value
    return dataclasses.replace(settings, **values)


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One job. Texts are whole prototxts.

    ``solver_text`` is the user's own, ``train_net_text`` too but with absolute paths; ``solver_for_peer`` is
    what a peer's solver is built from: the same with the data layers replaced and the net inlined.
    ``tests`` is empty when the solver tests nothing. ``budget_samples`` is max_iter × batch ×
    iter_size, whoever trains them, less what a snapshot had trained. ``creation``: random text of whoever
    created it, "" where nobody did.
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

    @property
    def samples_per_iteration(self) -> int:
        """Samples that one iteration of one solver trains."""
        return self.data.batch_records * self.iter_size

    def iteration_at(self, progress_samples: int) -> int:
        """Caffe's count of iterations after so many samples of the whole job."""
        return self.schedule.first_iteration + progress_samples // self.samples_per_iteration

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all that says what is trained: two jobs with one fingerprint train the same."""
        content = {
            key: value for key, value in dataclasses.asdict(self).items() if key not in {"name", "creation"}
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def identity(self) -> str:
        """Whose checkpoints are this job's own: the same job created again, in another etcd, has another one."""
        return hashlib.sha256(f"{self.fingerprint} {self.creation}".encode()).hexdigest()[:12]

    def to_json(self) -> bytes:
        """The job as it stands in the store."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, value: bytes) -> JobSpec:
        """Read a job. Raises UsageError naming the field that is missing or of a wrong type."""
        try:
            record = json.loads(value)
        except ValueError as error:
            raise UsageError(
                f"the job's record is no JSON ({error})", remedy="create the job again"
            ) from None
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise UsageError(
                "the job was made by another version of gossip-caffe",
                remedy="use that version, or create it again",
            )
        return read_fields(cls, record, "job")


def read_fields(kind: type[T], record: object, where: str) -> T:
    """A frozen dataclass from its JSON form (nested dataclasses and tuples included).

    Raises UsageError naming the path of the field that does not fit.
    """
    if not isinstance(record, dict):
        raise UsageError(f"{where} is no object", remedy="create the job again")
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in record:
            values[field.name] = _read(hints[field.name], record[field.name], f"{where}.{field.name}")
        elif field.default is dataclasses.MISSING:
            raise UsageError(f"{where}.{field.name} is missing", remedy="create the job again")
    return kind(**values)


def _read(hint: Any, value: object, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return read_fields(typing.cast(type[Any], hint), value, where)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise UsageError(f"{where} is no list", remedy="create the job again")
        element = typing.get_args(hint)[0]
        return tuple(_read(element, entry, f"{where}[{index}]") for index, entry in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if (
        isinstance(hint, types.GenericAlias)
        or not isinstance(value, hint)
        or (hint is int and isinstance(value, bool))
    ):
        raise UsageError(
            f"{where} is a {type(value).__name__}, not a {hint.__name__}", remedy="create the job again"
        )
    return value
