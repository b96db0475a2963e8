"""A worker as a process: it reads its study, makes the real store, search and peers, and works until the end."""

from __future__ import annotations

import asyncio
import functools
import random
import secrets
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gossip_caffe.clock import SystemClock
from gossip_caffe.data.sources.source import measure
from gossip_caffe.errors import ExitCode
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.keys import checked_name
from gossip_caffe.plain import shown
from gossip_caffe.security.security import PLAIN, Security
from gossip_caffe.system.kernel import refuse_without_kernel
from gossip_caffe.system.signals import Action, ending_signals, on_signal
from gossip_caffe.tune.board.studies import load_study, only_study
from gossip_caffe.tune.board.trial import TrialRecord
from gossip_caffe.tune.search.opened import OpenedSearch
from gossip_caffe.tune.study.trial_job import trial_job
from gossip_caffe.tune.work.peer_process import PeerProcesses
from gossip_caffe.tune.work.worker import Worker
from gossip_caffe.tune.work.world import WorkerWorld

Say = Callable[[str], None]
LEASE_TTL_S = 5.0


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """The options of one worker.

    ``study``: its name; "": the only one in etcd. ``name``: the worker's; "": a random one. ``run_dir``: holds a run
    folder for each trial's job. ``may_help``: join running trials when there is none to begin. ``of_peers``: more
    arguments of each ``peer start``. ``security``: the identity of the worker, and of its peers.
    """

    endpoints: tuple[str, ...]
    run_dir: Path
    study: str = ""
    name: str = ""
    may_help: bool = True
    engine: str = "pycaffe"
    of_peers: tuple[str, ...] = ()
    security: Security = PLAIN


def run_worker(options: WorkerOptions, say: Say) -> ExitCode:
    """Run one worker until its study has ended (OK), or until it is asked to leave (LEFT).

    Raises GossipCaffeError for an error that the user can mend.
    """
    refuse_without_kernel()
    return asyncio.run(_run(options, say))


async def _run(options: WorkerOptions, say: Say) -> ExitCode:
    clock, rng = SystemClock(), random.Random(secrets.randbits(64))
    name = checked_name(options.name or f"w-{rng.getrandbits(24):06x}", "worker")
    store = EtcdStore(options.endpoints, clock, rng, security=options.security)
    try:
        study = await load_study(store, options.study or await only_study(store))
        search = OpenedSearch(study, store, clock)
        measured = functools.cache(measure)

        async def make_job(trial: TrialRecord) -> JobSpec:
            made = await asyncio.to_thread(
                trial_job, study, trial.number, trial.attempt, trial.values, measured
            )
            return made.spec

        def ignored(key: str, revision: int, why: str) -> None:
            say(f"{name}: etcd: {shown(key)} (revision {revision:,}) is ignored: {why}")

        endpoints = ",".join(options.endpoints)
        world = WorkerWorld(
            study,
            store,
            clock,
            search,
            make_job,
            PeerProcesses(
                name,
                endpoints,
                options.run_dir,
                options.engine,
                (*options.of_peers, *options.security.arguments),
                is_named=options.security.tls is None,
            ),
            say,
            may_help=options.may_help,
            lease_ttl_s=LEASE_TTL_S,
            ignored=ignored,
            guard=search.guard,
        )
        worker = Worker(world, name)
        asked = _leave_on_signals(worker)
        reason = await worker.run()
        say(f"{name}: ends: {reason}")
        return ExitCode.LEFT if asked else ExitCode.OK
    finally:
        await store.close()


def _leave_on_signals(worker: Worker) -> list[str]:
    """Let signals ask the worker to leave. Returns a list of the reasons so far."""
    loop, asked = asyncio.get_running_loop(), list[str]()

    def heard(number: signal.Signals) -> None:
        decision = on_signal(number, leaving=bool(asked))
        if decision.action is Action.LEAVE:
            # The next Ctrl-C ends the process at once, also while the event loop is busy.
            loop.remove_signal_handler(signal.SIGINT)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            asked.append(decision.reason)
            worker.leave(decision.reason)

    for number in ending_signals():
        loop.add_signal_handler(number, heard, number)
    return asked
