"""How fast records come out of an LMDB into the solver's blob: our loader against Caffe's own Data layer.

    python benchmarks/loader.py [--repeats 5] [--seconds 4]

The same net (a source layer and nothing to learn), the same data and transformation, by turns in one run. Ours is the
whole road of a peer: loader process, ring of batches in shared memory, source layer. Both have their reader beside the
process that takes the batches. And the share of a solver's time that waits for data, while LeNet and CIFAR-10 quick
train as one peer. docs/internals/benchmarks.md says what each figure means.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from _models import CIFAR10_QUICK, LENET, Model, write_data, write_solver

from gossip_caffe.data.loader_port import LoaderProcess, PlannedBatch
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.data.sources.source import measure
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import JobSettings, JobSpec
from gossip_caffe.observe.log.reading import read_history

SLOTS = 8
AHEAD = 4 * SLOTS
"""Batches planned beyond what was taken: the loader never runs out of plans."""

SMALL = Model(
    name="28",
    shape=(1, 28, 28),
    batch=64,
    records=12_800,
    transform="scale: 0.00390625",
    layers='layer { name: "sink" type: "Silence" bottom: "data" bottom: "label" }\n',
    solver='base_lr: 0.01 lr_policy: "fixed"',
)
LARGE = Model(
    name="256",
    shape=(3, 256, 256),
    batch=32,
    records=768,
    transform='crop_size: 227 mirror: true mean_file: "{mean}"',
    layers=SMALL.layers,
    solver=SMALL.solver,
)
HEADINGS = ("data", "repeat", "Caffe rec/s", "ours rec/s", "ratio")


@dataclass(frozen=True, slots=True)
class Taken:
    """Records that came in so many seconds."""

    records: int
    seconds: float

    @property
    def per_s(self) -> float:
        return self.records / self.seconds


# ── Caffe's own layer, in a process of its own ────────────────────────────────────────────────────────────────────────


def bare_child(net_file: str, batch: int, seconds: float) -> None:
    """Forward passes of a net with Caffe's Data layer for about ``seconds``."""
    import caffe  # noqa: PLC0415 - only this child may load Caffe

    caffe.set_mode_cpu()
    net = caffe.Net(net_file, caffe.TRAIN)
    _forwards(net, 2 * SLOTS)
    began, passes = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        _forwards(net, 4)
        passes += 4
    print(json.dumps({"records": passes * batch, "seconds": time.monotonic() - began}), flush=True)


def _forwards(net: object, passes: int) -> None:
    for _ in range(passes):
        net._forward(0, 1)  # type: ignore[attr-defined]  # without copying the outputs into a dict


# ── ours: the ring on one side, a net with our source layer on the other ──────────────────────────────────────────────


def peer_child(spec_json: str, fds: str, seconds: float) -> None:
    """Forward passes of the peer's net over a ring that a loader fills."""
    import caffe  # noqa: PLC0415 - only this child may load Caffe

    from gossip_caffe.solver.engines import source_layer  # noqa: PLC0415
    from gossip_caffe.solver.engines.pycaffe_engine import solver_of  # noqa: PLC0415

    caffe.set_mode_cpu()
    spec = JobSpec.from_json(Path(spec_json).read_bytes())
    ring = BatchRing.attach([int(fd) for fd in fds.split(",")])
    source_layer.feed_from(ring)
    net = solver_of(spec.solver_for_peer).net

    def forward() -> None:
        while not ring.ready:
            ring.take(1.0)
        _forwards(net, 1)

    for _ in range(2 * SLOTS):
        forward()
    began, passes = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        forward()
        passes += 1
    taken = Taken(passes * spec.data.batch_records, time.monotonic() - began)
    print(json.dumps({"records": taken.records, "seconds": taken.seconds}), flush=True)


async def run_ours(spec: JobSpec, spec_file: Path, seconds: float) -> Taken:
    ring = BatchRing.create(spec.data.tops, spec.data.batch_records, SLOTS)
    loader = LoaderProcess(spec.data, spec.settings.seed, ring)
    await loader.start()
    fds = ring.fds
    for fd in fds:
        os.set_inheritable(fd, True)
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "--peer", str(spec_file), ",".join(map(str, fds)), str(seconds)),
        env=environment(),
        pass_fds=fds,
        stdout=asyncio.subprocess.PIPE,
    )
    plans = asyncio.create_task(_keep_planned(loader, ring, spec))
    try:
        out, _ = await child.communicate()
    finally:
        plans.cancel()
        await loader.stop()
        ring.close()
    return Taken(**json.loads(out.decode().splitlines()[-1]))


async def _keep_planned(loader: LoaderProcess, ring: BatchRing, spec: JobSpec) -> None:
    """Plan batch after batch, in the order of the records, through epochs without end."""
    batch, records, planned = spec.data.batch_records, spec.data.records, 0
    while True:
        more = []
        while planned < ring.tail + AHEAD:
            epoch, start = divmod(planned * batch, records)
            more.append(PlannedBatch(planned, ((epoch, start, start + batch),)))
            planned += 1
        loader.plan(more)
        await asyncio.sleep(0.002)


def run_bare(net_file: Path, batch: int, seconds: float) -> Taken:
    command = [sys.executable, __file__, "--bare", str(net_file), str(batch), str(seconds)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600, check=True)
    return Taken(**json.loads(done.stdout.splitlines()[-1]))


def environment() -> dict[str, str]:
    return {**os.environ, "OPENBLAS_NUM_THREADS": "1", "GLOG_minloglevel": "2"}


def compare(model: Model, repeats: int, seconds: float, folder: Path) -> dict[str, float]:
    """By turns; the ratio is the median of those of the pairs."""
    solver = write_solver(model, folder, max_iter=1_000_000)
    spec = read_job("loader", solver, JobSettings(), measure)
    spec_file = folder / f"{model.name}.json"
    spec_file.write_bytes(spec.to_json())
    bares, peers = [], []
    for repeat in range(repeats):
        bares.append(run_bare(folder / f"{model.name}.prototxt", model.batch, seconds))
        peers.append(asyncio.run(run_ours(spec, spec_file, seconds)))
        ratio = peers[-1].per_s / bares[-1].per_s
        print(
            f"{model.name:>12} {repeat:>12} {bares[-1].per_s:>12.0f} {peers[-1].per_s:>12.0f} {ratio:>12.3f}",
            flush=True,
        )
    return {
        f"ratio_{model.name}": round(
            median(peer.per_s / bare.per_s for peer, bare in zip(peers, bares, strict=True)), 4
        ),
        f"ours_records_per_s_{model.name}": round(median(peer.per_s for peer in peers), 1),
        f"caffe_records_per_s_{model.name}": round(median(bare.per_s for bare in bares), 1),
    }


# ── how long a solver waits ───────────────────────────────────────────────────────────────────────────────────────────


def wait_share(model: Model, seconds: float, folder: Path) -> float:
    """Share of the time in which the solver of a lone peer had no batch, without start and end of the run."""
    write_data(model, folder)
    run = folder / f"wait-{model.name}"
    iterations = max(40, int(seconds * 1500 / model.batch))
    solver = write_solver(model, folder, max_iter=iterations)
    command = [sys.executable, "-m", "gossip_caffe", "cluster", "up", "--peers", "1", "--solver", str(solver)]
    subprocess.run(
        [*command, "--name", f"wait-{model.name.replace('_', '-')}"],
        env={**environment(), "GOSSIP_CAFFE_STATE": str(run)},
        capture_output=True,
        timeout=900,
        check=True,
    )
    (folder,) = run.glob("clusters/*/run/events")
    shares: list[float] = [
        event["stalled_share"]
        for event in read_history(folder, "p0").events
        if event["event"] == "progress" and 0.1 < event["samples"] / (iterations * model.batch) < 0.9
    ]
    if not shares:
        raise SystemExit(f"{model.name} was trained too soon to see its solver wait: give more --seconds")
    return round(sum(shares) / len(shares), 4)


def main() -> int:
    if sys.argv[1:2] == ["--bare"]:
        bare_child(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
        return 0
    if sys.argv[1:2] == ["--peer"]:
        peer_child(sys.argv[2], sys.argv[3], float(sys.argv[4]))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="about how long each run takes")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    print(*(f"{heading:>12}" for heading in HEADINGS))
    with tempfile.TemporaryDirectory(prefix="gossip-caffe-loader-") as folder:
        for model in (SMALL, LARGE):
            figures |= compare(model, options.repeats, options.seconds, Path(folder))
        for model in (LENET, CIFAR10_QUICK):
            share = wait_share(model, 3 * options.seconds, Path(folder))
            figures[f"wait_share_{model.name}"] = share
            print(f"{model.name}: the solver waits for data {share:.2%} of the time", flush=True)
    print(f"RESULT {json.dumps(figures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
