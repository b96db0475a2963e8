"""Jobs for tests of the solver: a small net over an LMDB, as plain Caffe trains it and as a peer does."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import lmdb
import numpy as np
from numpy.typing import NDArray

from gossip_caffe.data.ring import BatchRing
from gossip_caffe.data.sources.source import measure
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import JobSettings, JobSpec
from gossip_caffe.solver.engines.engine import EngineSpec, engine_spec
from gossip_caffe.wire import caffe_wire_pb2 as wire

RECORDS, BATCH, SIZE = 400, 8, 6
SCALE = 0.00390625
DATA = """layer {{
  name: "data" type: "Data" top: "data" top: "label" include {{ phase: TRAIN }}
  transform_param {{ scale: {scale} {transform} }}
  data_param {{ source: "{source}" backend: LMDB batch_size: {batch} }}
}}
"""
HIDDEN = """layer {
  name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } }
}
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer {
  name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } bias_filler { type: "constant" value: 0.1 } }
}
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
MOMENTUM = "momentum: 0.9 weight_decay: 0.0005"


@dataclass(frozen=True, slots=True)
class Job:
    """``spec``: as a peer gets it; ``bare``: the solver's file for plain Caffe; ``data``, ``labels``: all records."""

    spec: JobSpec
    bare: Path
    data: NDArray[np.float32]
    labels: NDArray[np.float32]

    def engine_spec(self, engine: str = "pycaffe") -> EngineSpec:
        return dataclasses.replace(engine_spec(self.spec, engine), seed=7)

    def ring(self, slots: int = 64) -> BatchRing:
        return BatchRing.create(self.spec.data.tops, self.spec.data.batch_records, slots)

    def feed(self, ring: BatchRing, batches: int, records: int = 0) -> None:
        """The next batches, in the order in which Caffe's data layer reads them."""
        size = ring.batch_records
        for _ in range(batches):
            arrays = ring.reserve(0.0)
            assert arrays is not None
            which = np.arange(ring.head * size, ring.head * size + (records or size)) % RECORDS
            arrays[0][: len(which)], arrays[1][: len(which)] = self.data[which], self.labels[which]
            ring.commit(ring.head, len(which))


def write_job(
    folder: Path,
    solver: str,
    *,
    net: str = HIDDEN,
    batch: int = BATCH,
    inline: bool = False,
    transform: str = "",
    max_iter: int = 1000,
) -> Job:
    """Write data and prototxts; ``solver`` is what the solver's file says besides net and max_iter.

    ``inline``: the net stands in the solver's file. ``transform``: more of the data layer's transformation.
    """
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (RECORDS, 1, SIZE, SIZE), dtype=np.uint8)
    labels = (pixels[:, 0, 2:4, 2:4].mean(axis=(1, 2)) / 25.6).astype(np.int64)
    source = folder / "train"
    with lmdb.open(str(source), map_size=1 << 22) as environment, environment.begin(write=True) as writing:
        for index, (pixel, label) in enumerate(zip(pixels, labels, strict=True)):
            datum = wire.Datum(channels=1, height=SIZE, width=SIZE, data=pixel.tobytes(), label=int(label))
            writing.put(b"%05d" % index, datum.SerializeToString())
    net_path, bare = folder / "net.prototxt", folder / "solver.prototxt"
    whole = DATA.format(scale=SCALE, transform=transform, source=source, batch=batch) + net
    net_path.write_text(whole)
    named = f"net_param {{\n{whole}}}" if inline else f'net: "{net_path}"'
    bare.write_text(f"{named}\nmax_iter: {max_iter}\nsnapshot_after_train: false\n{solver}\n")
    spec = read_job("test", bare, JobSettings(), measure)
    return Job(spec, bare, pixels.astype(np.float32) * np.float32(SCALE), labels.astype(np.float32))
