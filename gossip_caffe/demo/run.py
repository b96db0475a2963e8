"""The demonstration from start to end: data, cluster, single solver, account of the records, picture, result."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gossip_caffe.clock import Clock
from gossip_caffe.cluster.state.folder import ClusterState
from gossip_caffe.cluster.state.options import ClusterOptions
from gossip_caffe.cluster.supervision.supervisor import Supervisor
from gossip_caffe.data.sources.source import measure
from gossip_caffe.demo.checkpoint_keeper import CheckpointKeeper, KeptWeights
from gossip_caffe.demo.demo_cluster import LocalDemoCluster
from gossip_caffe.demo.digits import write_digits
from gossip_caffe.demo.measure import accuracies, train_single
from gossip_caffe.demo.model import EPOCHS, DemoFiles, iterations, write_model
from gossip_caffe.demo.result import DemoResult
from gossip_caffe.demo.script_run import DemoDisplay, Lines, ScriptRun, run_script
from gossip_caffe.errors import GossipCaffeError, UsageError
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import JobSettings, JobSpec
from gossip_caffe.observe.history.account import account_of
from gossip_caffe.observe.log.events import Event
from gossip_caffe.observe.log.reading import logs_of, read_histories
from gossip_caffe.observe.report.picture import Curve, RunPicture, draw, lifelines_of
from gossip_caffe.system.signals import ending_signals

JOB = "demo"
SECONDS_PER_EPOCH = 6.0
"""Far more time than an epoch of the digits takes; the deadline of the cluster is computed from it."""

SOCKET_PATH_BYTES = 107
"""The longest path of a Unix socket on Linux."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """The options of the demonstration. ``out``: an empty or new folder; ``keep``: keep etcd's data and all weights."""

    out: Path
    peers: int = 4
    epochs: int = EPOCHS
    seed: int = 1
    keep: bool = False

    @property
    def deadline_s(self) -> float:
        """The time after which the demonstration gives up the cluster, in seconds."""
        return 60.0 + SECONDS_PER_EPOCH * self.epochs

    @property
    def picture(self) -> Path:
        """The picture's file."""
        return self.out / "demo.png"


def run_demo(
    options: DemoOptions,
    say: Say,
    clock: Clock,
    display: Callable[[], AbstractContextManager[DemoDisplay]] | None,
) -> DemoResult:
    """Run the demonstration; ``display`` makes the display of the running cluster (None: lines).

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
    keeper = CheckpointKeeper(state.run, options.out / "checkpoints")
    try:
        with display() if display is not None else nullcontext(Lines(say, clock)) as shown:
            script_run = _completed(_run_script(options, spec, state, keeper, shown, clock))
        say(f"the cluster ran for {script_run.seconds:.0f} s; now one Caffe solver alone, on as many samples")
        single = train_single(files, iterations(options.epochs), say, clock)
        result, curves = _measured(files, spec, state, script_run, keeper.kept, single, say)
        events = _events(state.run)
        title = f"{options.peers} peers train digits: one joins, one is killed"
        joined = frozenset(script_run.joined)
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


def _completed(run: Coroutine[None, None, ScriptRun]) -> ScriptRun:
    try:
        return asyncio.run(run)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None  # SIGTERM; see _run_script


async def _run_script(
    options: DemoOptions,
    spec: JobSpec,
    state: ClusterState,
    keeper: CheckpointKeeper,
    display: DemoDisplay,
    clock: Clock,
) -> ScriptRun:
    # SIGTERM and SIGHUP end the demonstration as Ctrl-C does: the cluster's context manager takes the cluster down.
    me = asyncio.current_task()
    for number in ending_signals():
        if me is not None and number is not signal.SIGINT:
            asyncio.get_running_loop().add_signal_handler(number, me.cancel)
    supervisor = Supervisor(ClusterOptions(state, options.peers, JOB, spec), display.say)
    async with LocalDemoCluster(supervisor, keeper, spec.budget_samples) as cluster:
        script_run = await run_script(
            cluster, display, clock, peers=options.peers, deadline_s=options.deadline_s
        )
    if not script_run.checkpoint:
        raise GossipCaffeError(
            f"the job was not finished after {options.deadline_s:.0f} s",
            remedy=f"see the logs in {state.folder}/logs",
        )
    return script_run


def _measured(
    files: DemoFiles,
    spec: JobSpec,
    state: ClusterState,
    script_run: ScriptRun,
    kept: Sequence[KeptWeights],
    single: Sequence[tuple[int, Path]],
    say: Say,
) -> tuple[DemoResult, tuple[Curve, Curve]]:
    """Test the kept weights and the single solver's snapshots. The job's last checkpoint gives the result."""
    ours = [(item.progress_samples, item.model) for item in kept if item.checkpoint != script_run.checkpoint]
    ours += [(spec.budget_samples, item.model) for item in kept if item.checkpoint == script_run.checkpoint]
    if not ours or not any(item.checkpoint == script_run.checkpoint for item in kept):
        raise GossipCaffeError(
            f"checkpoint {script_run.checkpoint} is gone", remedy=f"see {state.run}/checkpoints"
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
        peers_joined=_began_to_train(state.run, script_run.joined),
        peers_killed=len(script_run.killed),
    )
    return result, (Curve("consensus of the peers", consensus), Curve("one Caffe solver alone", alone))


def _began_to_train(run_dir: Path, peers: Sequence[str]) -> int:
    events = _events(run_dir)
    return sum(any(line["event"] == Event.JOINED for line in events.get(peer, ())) for peer in peers)


def _events(run_dir: Path) -> dict[str, Sequence[dict[str, Any]]]:
    return logs_of(read_histories(run_dir / "events"))


def _forget(out: Path, state: ClusterState) -> None:
    """Remove files that are not needed afterwards: etcd's data, the LMDBs, all weights but the last."""
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
