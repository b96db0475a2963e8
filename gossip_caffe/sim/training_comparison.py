"""One job, trained in one of three ways to the same number of samples, and the accuracy that it reaches.

The three ways: peers that gossip, on virtual time; one plain Caffe solver with its own data layers; and synchronous
all-reduce, which equals one solver with the summed batch. Each is a function of its seed. Call them in a process of
its own: this process loads Caffe.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import caffe
import numpy as np

from gossip_caffe.background import within
from gossip_caffe.checkpoint.formats.caffemodel import write_caffemodel
from gossip_caffe.data.loader import OpenSources
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.data.sources import source
from gossip_caffe.errors import UsageError
from gossip_caffe.gossip.protocol.outcome import OutcomeKind
from gossip_caffe.job.prototxts.prototxt import Document, edited
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.gradient_clip import UNKNOWN, GradientClip, fitted, given, scaling, unmeasurable
from gossip_caffe.job.spec.learning_rate import Ramp, factor, rate
from gossip_caffe.job.spec.spec import JobSettings, JobSpec, with_overrides
from gossip_caffe.observe.log.events import Event
from gossip_caffe.peer.sharing.strategies import strategy_of
from gossip_caffe.peer.work.clipping import first_batches
from gossip_caffe.shards.epochs import ChunkId, Epochs
from gossip_caffe.shards.stream import RecordStream
from gossip_caffe.sim.faults.poisoning import Poison, Poisoned, Poisoners
from gossip_caffe.sim.job import MESSAGE_S, SimulatedJob
from gossip_caffe.sim.peer import Pace
from gossip_caffe.sim.virtual_time import run
from gossip_caffe.solver.engines.engine import engine_spec
from gossip_caffe.solver.engines.pycaffe_engine import PycaffeEngine, as_file, keep_quiet
from gossip_caffe.solver.probing.gradient_lengths import gradient_lengths

JOB = "course"


@dataclass(frozen=True, slots=True)
class TrainingComparison:
    """The settings of a training by peers. ``solver``: its prototxt; ``settings``: those of the job, as text.

    ``steps_s``: for each peer the seconds of its iterations. With ``kill_every_s`` the peer that has trained longest
    is killed at that interval, and another peer joins ``join_after_s`` later. ``poison``: the way (a Poison) in which
    ``poisoned_share`` of all offers and answers are spoilt; "": none are. ``certified``: the peers are as with
    certificates: halves that are too long are cut, and offers that are too many are refused.
    """

    solver: Path
    seed: int
    steps_s: tuple[float, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    message_s: tuple[float, float] = MESSAGE_S
    kill_every_s: float = 0.0
    join_after_s: float = 0.0
    poison: str = ""
    poisoned_share: float = 0.25
    certified: bool = False


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The result of a training. ``accuracy``: on the TEST net, in percent; ``iterations``: by peer.

    ``seconds``: virtual seconds. ``payload_bytes``: bytes of weights, both ways. ``steady_per_s``: iterations per
    virtual second of each peer, between a tenth and nine tenths of the run. ``distance``: the mean distance of all
    exchanges. ``too_far``: halves that were refused as too long. ``healed``: the number of times that a peer returned
    to the consensus. ``spoilt``: spoilt messages. ``clip``: the limit of gradients, 0.0 without one.
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
    too_far: int = 0
    healed: int = 0
    spoilt: int = 0
    clip: float = 0.0


def by_gossip(course: TrainingComparison) -> TrainingResult:
    """Train by peers that share by the strategy of the settings: the real agents and the real steps of Caffe."""
    return run(_gossiped(course))


async def _gossiped(course: TrainingComparison) -> TrainingResult:
    spec = job_of(course)
    killed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="gossip-caffe-course-") as folder:
        spoilt: list[str] = []
        poisoners = Poisoners(random.Random(f"{course.seed}: poison"), lambda *what: spoilt.append(what[0]))
        if course.poison:
            poisoners.all_others = Poisoned(course.poisoned_share, Poison(course.poison))
        job = SimulatedJob(
            spec,
            Path(folder),
            PycaffeEngine,
            seed=course.seed,
            message_s=course.message_s,
            strategy=strategy_of(spec.settings),
            poisoners=poisoners,
            authenticated=course.certified,
        )
        try:
            for index, step_s in enumerate(course.steps_s):
                await job.start(f"p{index}", Pace(step_s))
            async with within(_churned(job, course, killed)):
                model = await job.finished()
            accuracy = accuracy_of(spec, model)
            return dataclasses.replace(_learned(job, accuracy, len(killed)), spoilt=len(spoilt))
        finally:
            job.close()


async def _churned(job: SimulatedJob, course: TrainingComparison, killed: list[str]) -> None:
    while course.kill_every_s:
        await job.clock.sleep(course.kill_every_s - course.join_after_s)
        killed.append(job.living[0])
        job.kill(killed[-1])
        await job.clock.sleep(course.join_after_s)
        await job.start(f"p{len(job.peers)}", Pace(course.steps_s[len(job.peers) % len(course.steps_s)]))


def _learned(job: SimulatedJob, accuracy: float, killed: int) -> TrainingResult:
    steps = {name: peer.stepped_at for name, peer in job.peers.items()}
    begin = min(at[0] for at in steps.values() if at)
    lasted_s = max(at[-1] for at in steps.values() if at) - begin
    first, last = begin + 0.1 * lasted_s, begin + 0.9 * lasted_s
    events = [event for log in job.logs.values() for event in log.events]
    applied = list(filter(_was_applied, events))
    distances = [float(str(event["distance"])) for event in applied]
    return TrainingResult(
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
        too_far=sum(map(_was_too_far, events)),
        healed=sum(event["event"] == Event.HEALED.value for event in events),
        clip=max(
            (float(str(event["limit"])) for event in events if event["event"] == Event.CLIP), default=0.0
        ),
    )


def _was_applied(event: Mapping[str, object]) -> bool:
    """Whether an event is of an exchange that its offerer applied, or of a round that its peer applied."""
    if event["event"] == Event.ROUND.value:
        return event["outcome"] == OutcomeKind.APPLIED.value
    return (
        event["event"] == Event.EXCHANGED.value
        and event["side"] == "offered"
        and event["outcome"] == OutcomeKind.APPLIED.value
    )


def _was_too_far(event: Mapping[str, object]) -> bool:
    """True for the event of the side that refused the half; the other side only receives the refusal."""
    return event.get("refusal") == "TOO_FAR" and "ratio" in event


def by_one_solver(course: TrainingComparison) -> TrainingResult:
    """Train by one plain Caffe solver with its own data layers. Of the settings only the solver is used."""
    spec = job_of(course)
    with tempfile.TemporaryDirectory(prefix="gossip-caffe-course-") as folder:
        model = Path(folder) / "bare.caffemodel"
        _bare(course.solver, spec.schedule.max_iter, model)
        return TrainingResult(accuracy_of(spec, model), iterations={"bare": spec.schedule.max_iter})


def _bare(path: Path, iterations: int, model: Path) -> None:
    """Train in a function of its own: a living solver would block another net that reads the same data."""
    caffe.set_mode_cpu()
    with contextlib.ExitStack() as files:
        solver = caffe.get_solver(as_file(without_snapshots(path.read_text()), "solver", files))
    keep_quiet()
    solver.step(iterations)
    solver.net.save(str(model))


def without_snapshots(solver_text: str) -> str:
    """The solver, with no snapshot: Caffe aborts when the folder of one is not there."""
    root = Document(solver_text, "solver").root
    names = ("snapshot", "snapshot_after_train")
    old = [(entry.start, entry.end, "") for name in names for entry in root.all(name)]
    return f"{edited(solver_text, old)}\nsnapshot_after_train: false\n"


def by_all_reduce(course: TrainingComparison) -> TrainingResult:
    """Train synchronously: a step is one batch per peer, with the learning rate and warm-up of that many peers.

    That equals one solver with as many batches per step (iter_size). The traffic of an all-reduce is not counted.
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
    clip = _clip_of(spec)
    ring = BatchRing.create(spec.data.tops, spec.data.batch_records, peers)
    sources = OpenSources(spec.data, spec.settings.seed)
    engine = PycaffeEngine(built_from, ring)
    samples = steps = 0
    engine.clip_gradients(clip.limit * peers)  # of the sum of the passes, as the solver's own
    ramp = Ramp(1.0, 0, factor(scaling(spec.settings, clip), peers))
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
    return TrainingResult(
        accuracy, iterations={"all": steps}, weights=engine.layout.exchanged, clip=clip.limit
    )


def _clip_of(spec: JobSpec) -> GradientClip:
    """The job's limit of gradients, measured as a peer measures it."""
    clip = given(spec.settings)
    if clip is not UNKNOWN or unmeasurable(spec):
        return clip
    built_from = engine_spec(spec, "simulated")
    return fitted(gradient_lengths(PycaffeEngine, built_from, spec.data, spec.schedule, first_batches(spec)))


def _with_batches(solver_text: str, peers: int) -> str:
    """The solver with the mean gradient of ``peers`` batches per step. Caffe clips their sum (ClipGradients)."""
    document = Document(solver_text, "solver")
    limit = document.root.number("clip_gradients", -1.0)
    old = [(entry.start, entry.end, "") for entry in document.root.all("clip_gradients")]
    return f"{edited(solver_text, old)}\niter_size: {peers}\nclip_gradients: {limit * peers:g}\n"


def _fed(spec: JobSpec, ring: BatchRing, sources: OpenSources) -> Iterator[int]:
    """Fill the ring with the job's next batches, in the order of its chunks.

    Yields the number of records in the ring.
    """
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


def job_of(course: TrainingComparison) -> JobSpec:
    """The job that the peers train."""
    settings = with_overrides(JobSettings(), course.settings)
    return read_job(JOB, course.solver, settings, source.measure)


def accuracy_of(spec: JobSpec, model: Path) -> float:
    """The TEST net's mean output "accuracy" over the solver's test_iter passes, in percent, computed by plain Caffe."""
    test = spec.tests[0]
    with contextlib.ExitStack() as files:
        net = caffe.Net(as_file(test.text, "net", files), caffe.TEST)
    keep_quiet()
    net.copy_from(str(model))
    total = 0.0
    for _ in range(test.iterations):
        total += float(net.forward()["accuracy"])
    return 100.0 * total / test.iterations
