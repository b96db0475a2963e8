"""A peer as a process: reads its job, makes the real store, network and children, and runs the agent."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass

from gossip_caffe import __version__
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.url_store import elsewhere_of
from gossip_caffe.clock import SystemClock
from gossip_caffe.data.loader_port import Loader, LoaderProcess
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import ExitCode
from gossip_caffe.gossip.grpc_server import PeerServer
from gossip_caffe.gossip.grpc_transport import GrpcTransport
from gossip_caffe.job.relocation import relocated
from gossip_caffe.job.spec import JobSpec
from gossip_caffe.membership.etcd_store import EtcdStore
from gossip_caffe.membership.jobs import load_job
from gossip_caffe.membership.keys import JobKeys, checked_name
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.observe.events import JsonLinesLog
from gossip_caffe.peer.address import address_towards, choose_address
from gossip_caffe.peer.agent import Agent
from gossip_caffe.peer.lifecycle import State
from gossip_caffe.peer.options import PeerOptions
from gossip_caffe.peer.resuming import go_back_to
from gossip_caffe.peer.trainer import Trainer
from gossip_caffe.peer.world import World
from gossip_caffe.solver.board import WeightBoard
from gossip_caffe.solver.card_gauge import open_gauge
from gossip_caffe.solver.card_trial import rehearse
from gossip_caffe.solver.cards import GUIDE, Card
from gossip_caffe.solver.device import CPU, on_card, parse_card
from gossip_caffe.solver.engine import EngineSpec, engine_spec
from gossip_caffe.solver.evaluation import CaffeEvaluator
from gossip_caffe.solver.solver_port import Solver, SolverProcess

TEST_NICENESS = 10
"""A test of the consensus takes what the solvers leave of the processors, and a tenth of one where they leave none."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Where:
    """Where a peer computes; ``card``: what is known of it, when it was looked at."""

    device: str
    card: Card | None = None


def run_peer(options: PeerOptions, say: Say) -> ExitCode:
    """Run one peer until its job is finished or it is asked to leave (SIGTERM, Ctrl-C; a second one ends it at once).

    Raises GossipCaffeError for what the user can mend.
    """
    return asyncio.run(_run(options, say))


async def _run(options: PeerOptions, say: Say) -> ExitCode:
    clock, rng = SystemClock(), random.Random(secrets.randbits(64))
    peer = checked_name(options.peer or f"p-{rng.getrandbits(24):06x}", "peer")
    store = EtcdStore(options.endpoints, clock, rng)
    folder = CheckpointFolder(options.run_dir / "checkpoints" / peer)
    where = choose_address(options.listen, options.advertise, options.endpoints, address_towards)
    server = PeerServer(where.listen, folder)
    transport = GrpcTransport()
    ring: BatchRing | None = None
    log: JsonLinesLog | None = None
    try:
        spec = await load_job(store, options.job)
        if not options.from_checkpoint and await _finished(store, spec.name, say):
            return ExitCode.OK
        here = relocated(spec, options.data_roots)
        noise_seed = rng.getrandbits(31)
        on = await _device(options, engine_spec(here, options.engine, noise_seed), here, peer, say)
        if options.from_checkpoint:
            back_to = await go_back_to(store, clock, spec.name, options.from_checkpoint, rng.getrandbits(32))
            say(f"job {spec.name} goes back to checkpoint {back_to.checkpoint}")
            if await _finished(store, spec.name, say):
                return ExitCode.OK
        if (elsewhere := elsewhere_of(spec)) is not None:
            elsewhere.connect()  # a peer that may have to keep checkpoints there is refused when it cannot
        address = where.advertised(await server.start())
        say(f"{peer}: joining job {spec.name}; others reach it at {address} ({where.why})")
        slots = max(spec.settings.prefetch_batches, 2 * spec.iter_size)
        ring = BatchRing.create(spec.data.tops, spec.data.batch_records, slots)
        log = JsonLinesLog(options.run_dir / "events" / f"{peer}.jsonl", peer, clock, say)
        record = PeerRecord(
            peer=peer,
            incarnation="",
            address=address,
            host=socket.gethostname(),
            pid=os.getpid(),
            state=State.JOINING.value,
            version=__version__,
            zone=options.zone,
            device=on.device,
            device_name=on.card.name if on.card else "",
            device_memory_bytes=on.card.memory_bytes if on.card else 0,
        )
        evaluator = CaffeEvaluator(niceness=TEST_NICENESS) if options.engine == "pycaffe" else None
        world = World(
            spec=spec,
            store=store,
            transport=transport,
            serve=server.serve,
            folder=folder,
            files=transport,
            clock=clock,
            rng=rng,
            log=log,
            say=say,
            evaluator=evaluator,
            spec_here=here,
            offload=asyncio.to_thread,
            elsewhere=elsewhere,
            gauge=open_gauge(on.card.bus) if on.card else None,
        )
        built_from = engine_spec(here, options.engine, noise_seed, on.device)
        agent = Agent(world, record, _trainer(here, built_from, ring, clock, log))
        _leave_on_signals(agent)
        await agent.run()
        return ExitCode.OK
    finally:
        await server.stop()
        await transport.close()
        await store.close()
        if log is not None:
            log.close()


async def _finished(store: EtcdStore, job: str, say: Say) -> bool:
    """Whether there is nothing left to train, which is then said."""
    if await store.get(JobKeys(job).finished) is None:
        return False
    say(f"job {job} is finished already; nothing to do")
    return True


async def _device(options: PeerOptions, built_from: EngineSpec, spec: JobSpec, peer: str, say: Say) -> Where:
    """Where this peer computes. A card is tried with the net first, before anybody hears of this peer.

    Raises EnvironmentProblem or ModelError when that fails.
    """
    if not options.gpu:
        return Where(CPU)
    wanted = parse_card(options.gpu, "--gpu")
    if options.engine != "pycaffe":  # the stand-in of tests computes nowhere else
        return Where(on_card(wanted or 0))
    say(f"{peer}: trying the net on {'a card' if wanted is None else f'card {wanted}'}")
    tried = await rehearse(wanted, built_from, spec.data.tops)
    say(f"{peer}: trains on {tried.card.words()}")
    if tried.remark:
        say(f"{peer}: snapshots and corrections are slower than they could be: {tried.remark} ({GUIDE})")
    return Where(on_card(tried.card.index), tried.card)


def _trainer(
    spec: JobSpec, built_from: EngineSpec, ring: BatchRing, clock: SystemClock, log: JsonLinesLog
) -> Trainer:
    def make_solver(board: WeightBoard | None) -> Solver:
        return SolverProcess(built_from, spec.schedule, ring, board)

    def make_loader() -> Loader:
        skipped = trainer.note_skipped if spec.settings.corrupt_records == "skip" else None
        return LoaderProcess(spec.data, spec.settings.seed, ring, skipped)

    trainer = Trainer(
        batch_records=spec.data.batch_records,
        ring=ring,
        make_solver=make_solver,
        make_loader=make_loader,
        clock=clock,
        log=log,
        begins_with=spec.start,
    )
    return trainer


def _leave_on_signals(agent: Agent) -> None:
    """First SIGTERM or Ctrl-C: leave in good order. A second one: end now; the lease frees what is owned."""
    loop = asyncio.get_running_loop()

    def asked(number: signal.Signals) -> None:
        agent.leave(number.name)
        loop.remove_signal_handler(signal.SIGINT)
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked, number)
