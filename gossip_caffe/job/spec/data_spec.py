"""The data of a job: its data sets, cut into chunks, and the conversion of records into a net's tops."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TransformSpec:
    """``transform_param`` of a data layer, with Caffe's field names. ``mean_file``: path of a BlobProto, or ""."""

    scale: float = 1.0
    mirror: bool = False
    crop_size: int = 0
    mean_values: tuple[float, ...] = ()
    mean_file: str = ""
    force_color: bool = False
    force_gray: bool = False


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """``image_data_param``: the conversion of image files to records.

    ``height`` and ``width`` 0 keep an image's own size.
    """

    root_folder: str = ""
    height: int = 0
    width: int = 0
    color: bool = True


MOST_TRIALS = 10_000


@dataclass(frozen=True, slots=True)
class SamplerSpec:
    """A ``batch_sampler`` of an AnnotatedData layer: pieces of a picture, drawn until ``max_sample`` are accepted.

    A piece is accepted if some box of the picture has the ``measure`` with it, ``least`` to ``most``: "jaccard" is
    intersection over union, "sample" the share of the piece that the box covers, "object" the share of the box that
    the piece covers, "" accepts each. ``max_sample`` 0: all of ``max_trials``.
    """

    min_scale: float = 1.0
    max_scale: float = 1.0
    min_aspect_ratio: float = 1.0
    max_aspect_ratio: float = 1.0
    measure: str = ""
    least: float = 0.0
    most: float = 2.0
    max_sample: int = 0
    max_trials: int = 100


@dataclass(frozen=True, slots=True)
class BoxesSpec:
    """The parameters of an AnnotatedData layer that concern its boxes.

    ``emit``: the boxes that a cropped picture keeps besides the condition that they are partly in it: "CENTER", those
    whose centre is in it; "MIN_OVERLAP", those of which it covers more than ``emit_overlap``; "", all.
    """

    samplers: tuple[SamplerSpec, ...] = ()
    emit: str = ""
    emit_overlap: float = 0.0


@dataclass(frozen=True, slots=True)
class TopSpec:
    """One top of a source layer. ``shape``: that of a single record, float32; () for a label.

    ``batch_records``: the records of a batch where the layer's batch differs from the job's; else 0. ``boxes``: the top
    holds the boxes of all records of a batch, and has the shape (1, 1, boxes, 8); ``shape`` is (the most boxes of a
    record, 8).
    """

    name: str
    shape: tuple[int, ...]
    batch_records: int = 0
    boxes: bool = False


@dataclass(frozen=True, slots=True)
class Span:
    """The values [start, stop) of one record, in memory order."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class LabelBound:
    """The labels that ``layer`` of the net accepts from top number ``top`` of a source: 0 to ``classes`` − 1.

    ``classes`` 0: any finite number. ``ignored``: additional accepted values (ignore_label). ``spans``: the values of
    a record that the bound applies to; empty for all.
    """

    top: int
    classes: int
    ignored: tuple[int, ...] = ()
    layer: str = ""
    spans: tuple[Span, ...] = ()

    def words(self) -> str:
        """The range of accepted labels, for messages."""
        if not self.classes:
            return "finite numbers"
        return "".join((f"0 to {self.classes - 1}", *(f" and {ignored}" for ignored in self.ignored)))


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """One source layer of the TRAIN net, and the place of its records.

    ``kind`` is one of SOURCE_KINDS. ``path``: the folder, the list file, or module:callable. ``chunk_keys``: for
    databases, the key of each chunk's first record, in hexadecimal, so that every peer finds a chunk without a scan.
    ``digest``: SHA-256 of everything that determines the records' numbering besides their count, "" where there is
    nothing. ``folder``: the folder at which relative names in a list file begin, as for Caffe; without it they begin
    beside the list. ``first``: for a user-defined data set, the index of its record's value that is this layer's first
    top. ``labels``: the bounds on the tops' values; all bounds of a top apply. ``batch_records``: as in ``TopSpec``.
    ``boxes``: for records with boxes.
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
    labels: tuple[LabelBound, ...] = ()
    batch_records: int = 0
    boxes: BoxesSpec = BoxesSpec()


ANNOTATED = {"lmdb": "annotated_lmdb", "leveldb": "annotated_leveldb"}
"""The kinds of databases whose records are AnnotatedDatums."""
SOURCE_KINDS = ("lmdb", "leveldb", "hdf5", "images", "dataset", *ANNOTATED.values())


@dataclass(frozen=True, slots=True)
class DataSpec:
    """The data of the TRAIN phase, cut into chunks of ``chunk_records``; the last chunk has the remaining records.

    All sources advance together: record n of the job is record (n modulo its length) of each source. The longest
    source determines ``records``. The largest batch is the job's; a layer with a smaller batch advances by
    proportionally fewer records (``pace``). Without sources the net generates its own data: a record is then one
    forward pass.
    """

    sources: tuple[SourceSpec, ...]
    records: int
    chunk_records: int
    batch_records: int

    @property
    def tops(self) -> tuple[TopSpec, ...]:
        """The tops of all sources, in the order of the net."""
        return tuple(
            dataclasses.replace(top, batch_records=source.batch_records)
            for source in self.sources
            for top in source.tops
        )

    def pace(self, source: SourceSpec, record: int) -> int:
        """The source's first record for a record of the job, before the modulo by the source's length."""
        return record * (source.batch_records or self.batch_records) // self.batch_records


@dataclass(frozen=True, slots=True)
class FedLayer:
    """A source layer of a TEST net whose data this program reads, and not Caffe."""

    source: SourceSpec
    batch_records: int

    @property
    def passes_around(self) -> int:
        """The number of passes after which the data repeats exactly."""
        return self.source.records // math.gcd(self.source.records, self.batch_records)
