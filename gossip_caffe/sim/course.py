"""One job, trained in one of three ways to the same number of samples, and what it has learned then.

By peers that gossip, on virtual time; by one bare Caffe solver with its own data layers; and by synchronous all-reduce,
which is one solver with the summed batch. Each is a function of its seed. To be called in a process of its own: this is
one of those that are Caffe.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import caffe
import numpy as np

from gossip_caffe.checkpoint.caffemodel import write_caffemodel
from gossip_caffe.data import source
from gossip_caffe.data.loader import OpenSources
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import UsageError
from gossip_caffe.gossip.exchange import OutcomeKind
from gossip_caffe.job.learning_rate import Ramp, factor, rate
from gossip_caffe.job.prototxt import Document, edited
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec import JobSettings, JobSpec, with_overrides
from gossip_caffe.observe.events import Event
from gossip_caffe.shards.epochs import ChunkId, Epochs
from gossip_caffe.shards.stream import RecordStream
from gossip_caffe.sim.job import MESSAGE_S, SimulatedJob
from gossip_caffe.sim.peer import Pace
from gossip_caffe.sim.virtual_time import run
from gossip_caffe.solver.engine import engine_spec
from gossip_caffe.solver.pycaffe_engine import PycaffeEngine, as_file, keep_quiet

JOB = "course"


@dataclass(frozen=True, slots=True)
class Course:
    """How a job is trained by peers. ``solver``: its prototxt; ``settings``: those of the job, as text.

    ``steps_s``: for each peer, how long its iterations take. With ``kill_every_s`` the peer that has trained longest is
    killed so often, and another one joins ``join_after_s`` later.
    """

    solver: Path
    seed: int
    steps_s: tuple[float, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    message_s: tuple[float, float] = MESSAGE_S
    kill_every_s: float = 0.0
    join_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Learned:
    """What came of it. ``accuracy``: on the TEST net, in percent; ``iterations``: by peer.

    ``seconds``: virtual ones; ``payload_bytes``: of weights, both ways; ``steady_per_s``: iterations a virtual second
    of each peer, between a tenth and nine tenths of the course; ``distance``: the mean of what all exchanges found.
    """

    accuracy: float
    seconds: float = 0.0
    iterations: Mapping[str, int] = field(default_factory=dict)
    steady_per_s: Mapping[str, float] = field(default_factory=dict)
    payload_bytes: int = 0
    exchanges: int = 0
    distance: float = 0.0
    killed: int = 0
    weights: int = 0


def by_gossip(course: Course) -> Learned:
    """Train by peers that exchange: the product's own agents and Caffe's own steps."""
    return run(_gossiped(course))


async def _gossiped(course: Course) -> Learned:
    spec = job_of(course)
    killed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="gossip-caffe-course-") as folder:
        job = SimulatedJob(spec, Path(folder), PycaffeEngine, seed=course.seed, message_s=course.message_s)
        try:
            for index, step_s in enumerate(course.steps_s):
                await job.start(f"p{index}", Pace(step_s))
            churning = asyncio.ensure_future(_churned(job, course, killed))
            try:
                model = await job.finished()
            finally:
                churning.cancel()
            accuracy = accuracy_of(spec, model)
            return _learned(job, accuracy, len(killed))
        finally:
            job.close()


async def _churned(job: SimulatedJob, course: Course, killed: list[str]) -> None:
    while course.kill_every_s:
        await job.clock.sleep(course.kill_every_s - course.join_after_s)
        killed.append(job.living[0])
        job.kill(killed[-1])
        await job.clock.sleep(course.join_after_s)
        await job.start(f"p{len(job.peers)}", Pace(course.steps_s[len(job.peers) % len(course.steps_s)]))


def _learned(job: SimulatedJob, accuracy: float, killed: int) -> Learned:
    steps = {name: peer.stepped_at for name, peer in job.peers.items()}
    begin = min(at[0] for at in steps.values() if at)
    lasted_s = max(at[-1] for at in steps.values() if at) - begin
    first, last = begin + 0.1 * lasted_s, begin + 0.9 * lasted_s
    applied = [event for log in job.logs.values() for event in log.events if _was_applied(event)]
    distances = [float(str(event["distance"])) for event in applied]
    return Learned(
        accuracy=accuracy,
        seconds=job.passed_s,
        iterations={name: len(at) for name, at in steps.items()},
        steady_per_s={
            name: sum(first <= moment < last for moment in at) / (last - first) for name, at in steps.items()
        },
        payload_bytes=job.carried.payload_bytes,
        exchanges=len(applied),
        distance=float(np.mean(distances)) if distances else 0.0,
        killed=killed,
        weights=next(iter(job.peers.values())).trainer.layout.exchanged,
    )


def _was_applied(event: Mapping[str, object]) -> bool:
    return (
        event["event"] == Event.EXCHANGED.value
        and event["side"] == "offered"
        and event["outcome"] == OutcomeKind.APPLIED.value
    )


def by_one_solver(course: Course) -> Learned:
    """Train by one bare Caffe, with its own data layers; of the course only the solver counts."""
    spec = job_of(course)
    with tempfile.TemporaryDirectory(prefix="gossip-caffe-course-") as folder:
        model = Path(folder) / "bare.caffemodel"
        _bare(course.solver, spec.schedule.max_iter, model)
        return Learned(accuracy_of(spec, model), iterations={"bare": spec.schedule.max_iter})


def _bare(path: Path, iterations: int, model: Path) -> None:
    """A function of its own: while the solver lives, another net that reads the same data would wait for it."""
    caffe.set_mode_cpu()
    solver = caffe.get_solver(str(path))
    keep_quiet()
    solver.step(iterations)
    solver.net.save(str(model))


def by_all_reduce(course: Course) -> Learned:
    """Train synchronously: a step is one batch of each peer, at the rate and with the warm-up of as many peers.

    That is one solver with as many batches a step (iter_size); what all-reduce would have carried is not counted.
    """
    spec = job_of(course)
    peers = len(course.steps_s)
    if spec.iter_size != 1:
        raise UsageError("the solver has an iter_size of its own", remedy="leave it out")
    built_from = dataclasses.replace(
        engine_spec(spec, "simulated"),
        solver_text=_with_batches(spec.solver_for_peer, peers),
        iter_size=peers,
    )
    ring = BatchRing.create(spec.data.tops, spec.data.batch_records, peers)
    sources = OpenSources(spec.data, spec.settings.seed)
    engine = PycaffeEngine(built_from, ring)
    samples = steps = 0
    ramp = Ramp(1.0, 0, factor(spec.settings.lr_scaling, peers))
    for count in _fed(spec, ring, sources):
        warm = ramp.at(samples, spec.settings.warmup * spec.budget_samples)
        batches = ring.ready
        engine.step(ring, batches, warm * rate(spec.schedule, spec.iteration_at(samples)))
        samples, steps = samples + count, steps + 1
    with tempfile.TemporaryDirectory(prefix="gossip-caffe-course-") as folder:
        model = Path(folder) / "all-reduce.caffemodel"
        weights = np.empty(engine.layout.size, dtype=np.float32)
        engine.read_weights(weights)
        with model.open("wb") as file:
            write_caffemodel(file, engine.layout, weights)
        accuracy = accuracy_of(spec, model)
    sources.close()
    ring.close()
    return Learned(accuracy, iterations={"all": steps}, weights=engine.layout.exchanged)


def _with_batches(solver_text: str, peers: int) -> str:
    """The solver with the mean gradient of ``peers`` batches a step; Caffe clips their sum (ClipGradients)."""
    document = Document(solver_text, "solver")
    limit = document.root.number("clip_gradients", -1.0)
    old = [(entry.start, entry.end, "") for entry in document.root.all("clip_gradients")]
    return f"{edited(solver_text, old)}\niter_size: {peers}\nclip_gradients: {limit * peers:g}\n"


def _fed(spec: JobSpec, ring: BatchRing, sources: OpenSources) -> Iterator[int]:
    """Fill the ring with the job's next batches, in the order of its chunks; yields how many records are in it."""
    epochs = Epochs.of(spec)
    stream = RecordStream(spec.data.batch_records)
    for epoch in range(epochs.count):
        for chunk in epochs.order(epoch):
            stream.add(ChunkId(epoch, chunk), *epochs.extent(ChunkId(epoch, chunk)))
    records = 0
    while (batch := stream.cut(flush=True)) is not None:
        arrays = ring.reserve(0.0)
        if arrays is None:
            raise UsageError("the ring is full: its batches were not trained", remedy="report this defect")
        parts = [[part.epoch, part.start, part.stop] for part in batch.parts]
        ring.commit(batch.sequence, sources.fill(parts, arrays))
        records += batch.records
        if ring.ready == ring.slots:
            yield records
            records = 0
    if records:
        yield records


def job_of(course: Course) -> JobSpec:
    """The job that its peers train."""
    settings = with_overrides(JobSettings(), course.settings)
    return read_job(JOB, course.solver, settings, source.measure)


def accuracy_of(spec: JobSpec, model: Path) -> float:
    """Mean of the TEST net's output "accuracy" over the solver's test_iter passes, in percent, read by plain Caffe."""
    test = spec.tests[0]
    with contextlib.ExitStack() as files:
        net = caffe.Net(as_file(test.text, "net", files), caffe.TEST)
    keep_quiet()
    net.copy_from(str(model))
    total = 0.0
    for _ in range(test.iterations):
        total += float(net.forward()["accuracy"])
    return 100.0 * total / test.iterations
