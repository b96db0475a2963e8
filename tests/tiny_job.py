"""A small real job for tests: points in ten clusters, in LMDBs, and a net that learns them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import lmdb
import numpy as np

from gossip_caffe.wire import caffe_wire_pb2 as wire

CLASSES = 10
NET = """name: "tiny"
layer {{
  name: "data" type: "Data" top: "data" top: "label" include {{ phase: TRAIN }}
  transform_param {{ scale: 0.0039 }}
  data_param {{ source: "{train}" backend: LMDB batch_size: {batch} }}
}}
layer {{
  name: "data" type: "Data" top: "data" top: "label" include {{ phase: TEST }}
  transform_param {{ scale: 0.0039 }}
  data_param {{ source: "{test}" backend: LMDB batch_size: {batch} }}
}}
layer {{
  name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
  inner_product_param {{ num_output: {hidden} weight_filler {{ type: "xavier" }} }}
}}
layer {{ name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }}
layer {{
  name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param {{ num_output: 10 weight_filler {{ type: "xavier" }} }}
}}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }}
layer {{
  name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy" include {{ phase: TEST }}
}}
"""
PACED = """layer {{
  name: "paced" type: "Python" bottom: "label" top: "paced" include {{ phase: TRAIN }}
  python_param {{ module: "tests.paced_layer" layer: "Paced" param_str: "{ms} {hurry}" }}
}}
"""
"""A layer that takes so many milliseconds for each pass, or $PACE_MS where none are given."""
HURRY = "hurry"
SOLVER = """net: "{net}"
test_iter: 4
test_interval: 1000000
test_initialization: false
base_lr: 0.05
momentum: 0.9
weight_decay: 0.0005
lr_policy: "inv"
gamma: 0.001
power: 0.75
max_iter: {iterations}
random_seed: 5
snapshot_prefix: "tiny"
"""


@dataclass(frozen=True, slots=True)
class TinyJob:
    """The files of a job."""

    folder: Path
    solver: Path
    net: Path
    train: Path
    test: Path

    def hurry(self) -> None:
        """From now on its steps take no longer than they must."""
        (self.folder / HURRY).touch()


def write_lmdb(path: Path, records: int, seed: int, noise: float = 40.0) -> None:
    """Records of shape (1, 6, 6), uint8: noise around one of ten centres, which is the label.

    At the usual noise all of them can be told apart; at 130 about nine of ten can.
    """
    centres = np.random.default_rng(0).integers(0, 256, (CLASSES, 36))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, records)
    pixels = np.clip(centres[labels] + rng.normal(0, noise, (records, 36)), 0, 255).astype(np.uint8)
    with lmdb.open(str(path), map_size=1 << 26) as environment, environment.begin(write=True) as transaction:
        for index, (pixel, label) in enumerate(zip(pixels, labels, strict=True)):
            datum = wire.Datum(channels=1, height=6, width=6, data=pixel.tobytes(), label=int(label))
            transaction.put(b"%08d" % index, datum.SerializeToString())


def write_job(
    folder: Path,
    *,
    records: int = 800,
    batch: int = 16,
    iterations: int = 2000,
    hidden: int = 32,
    tested: int = 64,
    noise: float = 40.0,
    pace_ms: int | None = None,
) -> TinyJob:
    """Write data, net and solver into a folder; ``tested``: records of the test phase.

    ``pace_ms``: so long a pass takes at the least, most of it asleep: a cluster whose peers share two cores then has
    them for what else it does, as one with a machine for each peer. 0: what $PACE_MS says; None: as fast as it can.
    Peers find the layer when the repository's root is on their PYTHONPATH, as ``ClusterRun`` has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    job = TinyJob(
        folder, folder / "solver.prototxt", folder / "net.prototxt", folder / "train", folder / "test"
    )
    write_lmdb(job.train, records, seed=1, noise=noise)
    write_lmdb(job.test, tested, seed=2, noise=noise)
    paced = PACED.format(ms=pace_ms or "", hurry=job.folder / HURRY) if pace_ms is not None else ""
    job.net.write_text(NET.format(train=job.train, test=job.test, batch=batch, hidden=hidden) + paced)
    job.solver.write_text(SOLVER.format(net=job.net, iterations=iterations))
    return job
