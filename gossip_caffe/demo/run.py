"""The demonstration from start to end: data, cluster, single solver, account, picture, verdict."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from gossip_caffe.clock import Clock
from gossip_caffe.cluster.state import ClusterState
from gossip_caffe.cluster.supervisor import ClusterOptions, Supervisor
from gossip_caffe.data.source import measure
from gossip_caffe.demo.digits import write_digits
from gossip_caffe.demo.harvest import Harvest, Kept
from gossip_caffe.demo.measure import accuracies, train_single
from gossip_caffe.demo.model import EPOCHS, DemoFiles, iterations, write_model
from gossip_caffe.demo.play import Audience, Lines, Played, play
from gossip_caffe.demo.result import DemoResult
from gossip_caffe.demo.stage import ClusterStage
from gossip_caffe.errors import GossipCaffeError, UsageError
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec import JobSettings, JobSpec
from gossip_caffe.observe.events import Event, read_events
from gossip_caffe.observe.history import account_of
from gossip_caffe.observe.picture import Curve, RunPicture, draw, lifelines_of

JOB = "demo"
SECONDS_PER_EPOCH = 6.0
"""Far more than an epoch of the digits takes; what the deadline of the cluster is reckoned from."""

SOCKET_PATH_BYTES = 107
"""Linux allows no longer path of a Unix socket."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What is shown. ``out`` is a folder of its own; ``keep`` leaves etcd's data and all weights in it."""

    out: Path
    peers: int = 4
    epochs: int = EPOCHS
    seed: int = 1
    keep: bool = False

    @property
    def deadline_s(self) -> float:
        """When the cluster is given up."""
        return 60.0 + SECONDS_PER_EPOCH * self.epochs

    @property
    def picture(self) -> Path:
        """The picture's file."""
        return self.out / "demo.png"


def run_demo(
    options: DemoOptions,
    say: Say,
    clock: Clock,
    audience: Callable[[], AbstractContextManager[Audience]] | None,
) -> DemoResult:
    """Show it; ``audience`` makes who watches the cluster while it runs (None: lines are said).

    Raises EnvironmentProblem when an extra, pycaffe or etcd is missing, UsageError for a folder that cannot be used.
    """
    state = ClusterState(JOB, _prepared(options.out) / "cluster")
    if len(str(state.socket.resolve()).encode()) > SOCKET_PATH_BYTES:
        raise UsageError(
            f"the path {options.out} is too long for a Unix socket", remedy="give a shorter --out"
        )
    say(f"digits and prototxts → {options.out}")
    write_digits(options.out, options.seed)
    files = write_model(options.out, epochs=options.epochs, seed=options.seed)
    spec = replace(read_job(JOB, files.solver, JobSettings(), measure), creation=secrets.token_hex(8))
    harvest = Harvest(state.run, options.out / "checkpoints")
    try:
        with audience() if audience is not None else nullcontext(Lines(say, clock)) as watching:
            played = _watched(_on_stage(options, spec, state, harvest, watching, clock))
        say(f"the cluster ran for {played.seconds:.0f} s; now one Caffe solver alone, on as many samples")
        single = train_single(files, iterations(options.epochs), say, clock)
        result, curves = _measured(files, spec, state, played, harvest.kept, single, say)
        events = _events(state.run)
        title = f"{options.peers} peers train digits: one joins, one is killed"
        joined = frozenset(played.joined)
        draw(RunPicture(title, curves, lifelines_of(events), joined), options.picture)
        return result
    finally:
        if not options.keep:
            _forget(options.out, state)


def _prepared(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise UsageError(f"the folder {out} is not empty", remedy="give another --out, or none")
    except OSError as error:
        raise UsageError(
            f"cannot use the folder {out} ({error.strerror})", remedy="give another --out"
        ) from None
    return out.resolve()


def _watched(show: Coroutine[None, None, Played]) -> Played:
    try:
        return asyncio.run(show)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None  # SIGTERM; see _on_stage


async def _on_stage(
    options: DemoOptions,
    spec: JobSpec,
    state: ClusterState,
    harvest: Harvest,
    audience: Audience,
    clock: Clock,
) -> Played:
    # SIGTERM takes the same way out as Ctrl-C: through the end of the stage, which takes the cluster down.
    me = asyncio.current_task()
    if me is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, me.cancel)
    supervisor = Supervisor(ClusterOptions(state, options.peers, JOB, spec), audience.hear)
    async with ClusterStage(supervisor, harvest, spec.budget_samples) as stage:
        played = await play(stage, audience, clock, peers=options.peers, deadline_s=options.deadline_s)
    if not played.checkpoint:
        raise GossipCaffeError(
            f"the job was not finished after {options.deadline_s:.0f} s",
            remedy=f"see the logs in {state.folder}/logs",
        )
    return played


def _measured(
    files: DemoFiles,
    spec: JobSpec,
    state: ClusterState,
    played: Played,
    kept: Sequence[Kept],
    single: Sequence[tuple[int, Path]],
    say: Say,
) -> tuple[DemoResult, tuple[Curve, Curve]]:
    """Test what was kept; the last checkpoint is the one that the job ended with."""
    ours = [(item.progress_samples, item.model) for item in kept if item.checkpoint != played.checkpoint]
    ours += [(spec.budget_samples, item.model) for item in kept if item.checkpoint == played.checkpoint]
    if not ours or not any(item.checkpoint == played.checkpoint for item in kept):
        raise GossipCaffeError(
            f"checkpoint {played.checkpoint} is gone", remedy=f"see {state.run}/checkpoints"
        )
    say(f"testing {len(ours)} checkpoints and {len(single)} snapshots of the single solver")
    tested = accuracies(files, [model for _, model in (*ours, *single)])
    consensus = tuple(zip((samples for samples, _ in ours), tested, strict=False))
    alone = tuple(zip((samples for samples, _ in single), tested[len(ours) :], strict=True))
    account = account_of(state.run, spec)
    result = DemoResult(
        accuracy=consensus[-1][1],
        accuracy_single=alone[-1][1],
        records_trained=account.records_trained,
        records_lost=account.records_lost,
        records_twice=account.records_twice,
        peers_joined=_began_to_train(state.run, played.joined),
        peers_killed=len(played.killed),
    )
    return result, (Curve("consensus of the peers", consensus), Curve("one Caffe solver alone", alone))


def _began_to_train(run_dir: Path, peers: Sequence[str]) -> int:
    events = _events(run_dir)
    return sum(any(line["event"] == Event.JOINED for line in events.get(peer, ())) for peer in peers)


def _events(run_dir: Path) -> dict[str, list[dict[str, object]]]:
    return {path.stem: list(read_events(path)) for path in sorted(run_dir.glob("events/*.jsonl"))}


def _forget(out: Path, state: ClusterState) -> None:
    """Remove what nobody looks at afterwards: etcd's data, LMDBs, weights but the last."""
    for folder in (
        state.etcd,
        state.run / "checkpoints",
        out / "single",
        out / "train_lmdb",
        out / "test_lmdb",
    ):
        shutil.rmtree(folder, ignore_errors=True)
    for model in sorted((out / "checkpoints").glob("*.caffemodel"))[:-1]:
        model.unlink()
