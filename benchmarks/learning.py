"""What peers that gossip learn, beside one bare Caffe solver and beside synchronous all-reduce, at equal samples.

    python benchmarks/learning.py [--data FOLDER] [--epochs 5] [--seeds 3] [--peers 4] [--courses default,churn]

LeNet on Fashion-MNIST, whose four files FOLDER (or GOSSIP_CAFFE_FASHION_MNIST) holds as they are published; without
them a smaller LeNet on scikit-learn's digits. The peers are the product's own agents and Caffe's own solvers, on
virtual time in one process, so how busy the machine is changes nothing; a course takes about as long as one solver.
docs/internals/benchmarks.md says what each figure means.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import lmdb
import numpy as np
from _models import LENET
from numpy.typing import NDArray

from gossip_caffe.demo import digits
from gossip_caffe.demo.model import write_model
from gossip_caffe.sim.training_comparison import (
    TrainingComparison,
    TrainingResult,
    by_all_reduce,
    by_gossip,
    by_one_solver,
)
from gossip_caffe.wire import caffe_wire_pb2 as wire

DATA = "GOSSIP_CAFFE_FASHION_MNIST"
STEP_S = 0.08
"""An iteration of LeNet when four solvers share two cores."""
TRAIN, TEST = 60_000, 10_000
TEST_BATCH = 100
DIGITS_EPOCHS = 55

_SOLVER = (
    'net: "{net}"\ntest_iter: {passes}\ntest_interval: 1000000\ntest_initialization: false\n'
    'base_lr: 0.01\nlr_policy: "inv"\ngamma: 0.0001\npower: 0.75\nmomentum: 0.9\nweight_decay: 0.0005\n'
    "max_iter: {iterations}\nsnapshot_after_train: false\nrandom_seed: {seed}\n"
)
_CLIPPED = "clip_gradients: 2\n"


@dataclass(frozen=True, slots=True)
class Way:
    """One way to train: ``like`` is the all-reduce that is fair to it, "" for those that are compared with nothing."""

    train: Callable[[TrainingComparison], TrainingResult]
    settings: Mapping[str, str] = field(default_factory=dict)
    like: str = ""
    clipped: bool = False
    kill_every_s: float = 0.0
    slow: float = 1.0
    """The first peer's steps take so many times longer than the others'."""


SLOW = 4.0
_LINEAR = {"lr_scaling": "linear"}
_OFTEN = {**_LINEAR, "cadence": "fixed", "exchange_every_iterations": "4"}
_MEASURED = {**_LINEAR, "clip": "auto"}
_BY_H = {**_MEASURED, "codec": "int4", "cadence": "fixed"}
WAYS = {
    "one": Way(by_one_solver),
    "allreduce": Way(by_all_reduce),
    "default": Way(by_gossip, like="allreduce"),
    "fixed": Way(by_gossip, {"cadence": "fixed"}, like="allreduce"),
    "churn": Way(by_gossip, like="allreduce", kill_every_s=15.0),
    "allreduce_linear": Way(by_all_reduce, _LINEAR, clipped=True),
    "linear": Way(by_gossip, _OFTEN, "allreduce_linear", clipped=True),
    "sync": Way(by_gossip, {"strategy": "sync"}, like="allreduce"),
    "default_slow": Way(by_gossip, like="allreduce", slow=SLOW),
    "sync_slow": Way(by_gossip, {"strategy": "sync"}, like="allreduce", slow=SLOW),
    "allreduce_clip": Way(by_all_reduce, _MEASURED),
    "clip": Way(by_gossip, _MEASURED, like="allreduce_clip"),
    "clip_int4_h8": Way(by_gossip, {**_BY_H, "exchange_every_iterations": "8"}, like="allreduce_clip"),
    "clip_int4_h4": Way(by_gossip, {**_BY_H, "exchange_every_iterations": "4"}, like="allreduce_clip"),
    "int8": Way(by_gossip, {"codec": "int8"}, like="allreduce"),
}
USUAL = ("one", "allreduce", "sync", "default", "fixed", "churn", "allreduce_linear", "linear")


Trained = tuple[TrainingResult, float]
"""What a course learned, and the seconds that it took."""


def write_fashion(source: Path, folder: Path) -> None:
    """Both LMDBs, in the order of the files."""
    for name, files, records in (("train", "train", TRAIN), ("test", "t10k", TEST)):
        images = _idx(source / f"{files}-images-idx3-ubyte.gz", 16).reshape(records, 28, 28)
        labels = _idx(source / f"{files}-labels-idx1-ubyte.gz", 8)
        with (
            lmdb.open(str(folder / name), map_size=1 << 30) as environment,
            environment.begin(write=True) as writing,
        ):
            for index, (image, label) in enumerate(zip(images, labels, strict=True)):
                datum = wire.Datum(channels=1, height=28, width=28, data=image.tobytes(), label=int(label))
                writing.put(b"%08d" % index, datum.SerializeToString(), append=True)


def _idx(path: Path, header: int) -> NDArray[np.uint8]:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def fashion_solver(data: Path, folder: Path, *, epochs: float, seed: int, clipped: bool) -> Path:
    """LeNet and its solver, as Caffe's example has them, over the LMDBs in ``data``."""
    net = folder / "lenet.prototxt"
    net.write_text(
        'name: "lenet"\n'
        + _data_layer("TRAIN", data / "train", LENET.batch)
        + _data_layer("TEST", data / "test", TEST_BATCH)
        + LENET.layers
        + 'layer { name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy"\n'
        "  include { phase: TEST } }\n"
    )
    solver = folder / "solver.prototxt"
    iterations = round(epochs * TRAIN / LENET.batch)
    text = _SOLVER.format(net=net, passes=TEST // TEST_BATCH, iterations=iterations, seed=seed)
    solver.write_text(text + _CLIPPED * clipped)
    return solver


def _data_layer(phase: str, path: Path, batch: int) -> str:
    return (
        f'layer {{ name: "data" type: "Data" top: "data" top: "label" include {{ phase: {phase} }}\n'
        f"  transform_param {{ {LENET.transform} }}\n"
        f'  data_param {{ source: "{path}" batch_size: {batch} backend: LMDB }} }}\n'
    )


def digits_solver(data: Path, folder: Path, *, epochs: float, seed: int, clipped: bool) -> Path:
    """The demonstration's model, over digits that are split by the seed."""
    del data
    digits.write_digits(folder, seed)
    solver = write_model(folder, epochs=math.ceil(epochs), seed=seed).solver
    solver.write_text(solver.read_text() + _CLIPPED * clipped)
    return solver


def trained(
    write: Callable[..., Path], data: Path, way: str, seed: int, epochs: float, peers: int
) -> Trained:
    """Train one way in this process; also the seconds that it took."""
    began = time.perf_counter()
    chosen = WAYS[way]
    with tempfile.TemporaryDirectory(prefix="gossip-caffe-learning-") as folder:
        solver = write(data, Path(folder), epochs=epochs, seed=seed, clipped=chosen.clipped)
        course = TrainingComparison(
            solver,
            seed,
            (chosen.slow * STEP_S, *(STEP_S,) * (peers - 1)),
            chosen.settings,
            kill_every_s=chosen.kill_every_s,
            join_after_s=chosen.kill_every_s / 3,
        )
        return chosen.train(course), time.perf_counter() - began


def apart(train: Callable[[], Trained]) -> Trained:
    """Train in a process of its own: Caffe ends its process on an error, and the other courses go on."""
    spawning = multiprocessing.get_context("spawn")  # Caffe's threads do not survive a fork
    ours, its = spawning.Pipe(duplex=False)
    process = spawning.Process(target=_send, args=(its, train))
    process.start()
    its.close()
    try:
        found: Trained | Exception = ours.recv()
    except EOFError:
        found = RuntimeError("its process ended before it had trained")
    process.join()
    if isinstance(found, Exception):
        raise found
    return found


def _send(to: Connection, train: Callable[[], Trained]) -> None:
    try:
        to.send(train())
    except Exception as error:
        to.send(RuntimeError(f"{type(error).__name__}: {error}"))


def all_reduce_bytes(reduced: TrainingResult, peers: int) -> int:
    """What its peers send in all, by a ring and in float32: 2(n - 1)/n vectors a peer and step, the least there is."""
    return sum(reduced.iterations.values()) * 2 * (peers - 1) * 4 * reduced.weights


def figures(found: Mapping[str, Mapping[int, TrainingResult]], peers: int) -> dict[str, float]:
    """From what was learned by way and seed to what is told; differences are paired by seed."""
    told: dict[str, float] = {}
    for way, by_seed in found.items():
        told[f"accuracy_{way}"] = statistics.mean(one.accuracy for one in by_seed.values())
        like = found.get(WAYS[way].like, {})
        suffix = "" if way == "default" else f"_{way}"
        _tell_gap(told, f"gap_points{suffix}", by_seed, found.get("one", {}) if way != "one" else {})
        _tell_gap(told, f"gap_allreduce_points{suffix}", by_seed, like)
        if both := sorted(set(by_seed) & set(like)):
            ratios = [by_seed[seed].payload_bytes / all_reduce_bytes(like[seed], peers) for seed in both]
            told[f"bytes_over_allreduce{suffix}"] = statistics.mean(ratios)
            told[f"distance{suffix}"] = statistics.mean(by_seed[seed].distance for seed in both)
        if took := [one.seconds for one in by_seed.values() if one.seconds]:
            told[f"virtual_s{suffix}"] = statistics.mean(took)
        if WAYS[way].kill_every_s:
            told[f"killed{suffix}"] = statistics.mean(one.killed for one in by_seed.values())
    return told


def _tell_gap(
    told: dict[str, float],
    name: str,
    ours: Mapping[int, TrainingResult],
    others: Mapping[int, TrainingResult],
) -> None:
    """Points by which ours is worse: the mean of the differences, and its standard error where it has one."""
    gaps = [others[seed].accuracy - ours[seed].accuracy for seed in sorted(set(ours) & set(others))]
    if gaps:
        told[name] = statistics.mean(gaps)
    if len(gaps) > 1:
        told[f"{name}_error"] = statistics.stdev(gaps) / math.sqrt(len(gaps))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get(DATA) or None)
    parser.add_argument("--epochs", type=float, default=0.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--courses", default=",".join(USUAL))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    ways = options.courses.split(",")
    if unknown := sorted(set(ways) - set(WAYS)):
        parser.error(f"no course {', '.join(unknown)}; there are: {', '.join(WAYS)}")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("GLOG_minloglevel", "2")
    found: dict[str, dict[int, TrainingResult]] = {way: {} for way in ways}
    with tempfile.TemporaryDirectory(prefix="gossip-caffe-learning-") as folder:
        data = Path(folder)
        if options.data is not None:
            write_fashion(options.data, data)
        write = digits_solver if options.data is None else fashion_solver
        epochs = options.epochs or (DIGITS_EPOCHS if options.data is None else 5.0)
        train = functools.partial(trained, write, data, epochs=epochs, peers=options.peers)
        with ThreadPoolExecutor(options.workers) as pool:
            running: dict[Future[Trained], tuple[str, int]] = {
                pool.submit(apart, functools.partial(train, way=way, seed=seed)): (way, seed)
                for seed in range(1, options.seeds + 1)
                for way in ways
            }
            for done in as_completed(running):
                way, seed = running[done]
                try:
                    learned, seconds = done.result()
                except RuntimeError as error:  # the other courses go on
                    print(f"seed {seed} {way:16}: {error}", file=sys.stderr, flush=True)
                    continue
                found[way][seed] = learned
                print(
                    f"seed {seed} {way:16} {learned.accuracy:6.2f}%  {learned.exchanges:5} exchanges  "
                    f"{learned.payload_bytes / 1e6:8.1f} MB  distance {learned.distance:.2g}  "
                    f"clip {learned.clip:.3g}  {seconds:.0f} s",
                    flush=True,
                )
    if not any(found.values()):
        print("no course has trained, so there is no figure", file=sys.stderr)
        return 1
    told = figures({way: by_seed for way, by_seed in found.items() if by_seed}, options.peers)
    for name, value in told.items():
        print(f"{name:32} {value:.4f}")
    told |= {"seeds": options.seeds, "peers": options.peers, "epochs": epochs}
    told["fashion_mnist"] = options.data is not None
    print(f"RESULT {json.dumps(told)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
