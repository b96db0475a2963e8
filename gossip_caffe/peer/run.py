"""A peer as a process: it reads its job, makes the real store, network and children, and runs the agent."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from gossip_caffe import __version__
from gossip_caffe.checkpoint.ending import read_end
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.url_store import remote_store_of
from gossip_caffe.clock import SystemClock
from gossip_caffe.data.loader_port import Loader, LoaderProcess
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import ExitCode, StoreError
from gossip_caffe.gossip.transport.grpc_server import PeerServer
from gossip_caffe.gossip.transport.grpc_transport import GrpcTransport
from gossip_caffe.job.code import check_code
from gossip_caffe.job.relocation import relocated
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.jobs import job_or_only_one
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.membership.stops import why_stopped
from gossip_caffe.observe.log.events import Event, EventLog
from gossip_caffe.peer.agent import Agent
from gossip_caffe.peer.checkpoints.snapshots import FOLDER as SNAPSHOTS
from gossip_caffe.peer.core.address import Address, address_towards, choose_address, choose_metrics_address
from gossip_caffe.peer.core.certificates import (
    CertificateWatch,
    advertised,
    check_listener,
    check_names,
    is_insecure,
)
from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.peer.core.lifecycle import Cause, State
from gossip_caffe.peer.core.options import PeerOptions
from gossip_caffe.peer.core.overseer import Overseer, Trouble
from gossip_caffe.peer.core.own_log import OwnLog
from gossip_caffe.peer.joining.resuming import go_back_to
from gossip_caffe.peer.leaving import Leaving
from gossip_caffe.peer.metering import Metering
from gossip_caffe.peer.registration.own_name import INSTEAD
from gossip_caffe.peer.sharing.mpi import MpiOfPeer
from gossip_caffe.peer.sharing.strategies import strategy_of
from gossip_caffe.peer.work.suspects import SuspectBatches
from gossip_caffe.peer.work.trainer import Trainer
from gossip_caffe.shards.stream import Part
from gossip_caffe.solver.board import WeightBoard
from gossip_caffe.solver.checks.gpu_trial import try_on_gpu
from gossip_caffe.solver.engines.engine import EngineSpec, engine_spec
from gossip_caffe.solver.evaluation.evaluation import CaffeEvaluator
from gossip_caffe.solver.gpu.device import CPU, gpu_device, parse_gpu
from gossip_caffe.solver.gpu.gpus import GUIDE, Gpu
from gossip_caffe.solver.gpu.memory_gauge import open_gauge
from gossip_caffe.solver.probing.probe import ProbeProcess
from gossip_caffe.solver.script_link import ScriptLink
from gossip_caffe.solver.solver_port import Solver, SolverProcess
from gossip_caffe.system.folders import folder_within
from gossip_caffe.system.host import host_name
from gossip_caffe.system.unix_sockets import peer_socket_name, socket_path

Say = Callable[[str], None]

FINISHED_WITHIN_S = 1.0
"""Seconds in which etcd may say that the job was finished while this peer left."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The device on which a peer computes. ``gpu`` describes its GPU; None for a CPU, or a GPU that was not tried."""

    device: str
    gpu: Gpu | None = None


async def run_alone(
    options: PeerOptions, peer: str, say: Say, clock: SystemClock, rng: random.Random, leaving: Leaving
) -> ExitCode:
    """Run the peer, whose name no other process of this run folder has, until it has left. Returns the exit code."""
    overseer = Overseer(options.overseer_fd)
    overseer.listen()
    store = EtcdStore(options.endpoints, clock, rng, security=options.security)
    folder = _checkpoints_of(options, peer)
    where = _where(options)
    metering = Metering(
        choose_metrics_address(
            options.metrics_listen, where, options.endpoints, address_towards, _socket_name()
        ),
        clock,
        options.run_dir,
    )
    log: OwnLog | None = None

    def warn(line: str) -> None:
        say(line)
        overseer.send(Trouble(line))

    mpi = MpiOfPeer(peer, options.way, say, warn, rng)
    server = PeerServer(where.listen, folder, mpi.ranks, options.security)
    transport = GrpcTransport(store.sockets, mpi.ranks, options.security)
    try:
        spec = await job_or_only_one(store, options.job)
        check_code(spec, allowed=await _may_run_code(options, store))
        check_names(server.live, peer, spec.name)
        if not options.from_checkpoint and await _finished(store, spec, say):
            return ExitCode.OK
        local_spec = _local(spec, options)
        noise_seed = rng.getrandbits(31)
        built_from = engine_spec(local_spec, options.engine, noise_seed)
        placement = await _placement(options, built_from, local_spec, peer, say)
        if options.from_checkpoint:
            back_to = await go_back_to(store, clock, spec.name, options.from_checkpoint, rng.getrandbits(32))
            say(f"job {spec.name} goes back to checkpoint {back_to.checkpoint}")
            if await _finished(store, spec, say):
                return ExitCode.OK
        if (remote_store := remote_store_of(spec)) is not None:
            remote_store.connect()  # every peer may have to write checkpoints there, so one that cannot is refused
        address = advertised(await _listen(server, where), peer, server.live)
        say(f"{peer}: joining job {spec.name}; other peers reach it at {address} ({where.why})")
        metrics = await metering.start(lambda line: say(f"{peer}: {line}"))
        ring = BatchRing.create(local_spec.data.tops, spec.data.batch_records, spec.ring_slots)
        log = OwnLog(options, peer, clock, warn)
        counted = metering.log(log.events, peer)
        record = _record(peer, options, placement, address, metrics)
        record = replace(
            record, mpi=await mpi.begin(counted), insecure=is_insecure(say, peer, address, options.security)
        )
        built_from = engine_spec(local_spec, options.engine, noise_seed, placement.device)
        world = PeerDependencies(
            spec=spec,
            store=store,
            transport=metering.transport(transport),
            serve=metering.serve(server.serve),
            folder=folder,
            files=transport,
            clock=clock,
            rng=rng,
            log=counted,
            say=say,
            strategy=strategy_of(spec.settings),
            evaluator=_evaluator(built_from, counted, say),
            probe=_probe(options, built_from, local_spec),
            local_spec=local_spec,
            offload=asyncio.to_thread,
            remote_store=remote_store,
            gauge=open_gauge(placement.gpu.bus) if placement.gpu else None,
            snapshots=options.run_dir / SNAPSHOTS / peer if options.snapshots else None,
            overseer=overseer,
            ranks=mpi.ranks,
            grace_s=options.grace_s,
            is_script=options.script_fd >= 0,
            certificates=CertificateWatch(peer, server, clock, warn, counted),
            authenticated=server.live is not None,
        )
        script = Script(options.script_fd, leaving)
        agent = Agent(
            world,
            record,
            _trainer(local_spec, built_from, ring, clock, counted, say, _once(peer, warn), script),
        )
        metering.show(agent.figures)
        leaving.then = agent.leave
        cause = await agent.run()
        mpi.ends_with_job = await _finished_meanwhile(store, spec, clock, cause)
        return leaving.end(spec.name, cause, finished=mpi.ends_with_job)
    finally:
        for end in (metering.stop, server.stop, transport.close, mpi.end, store.close):
            await end()
        if log is not None:
            log.close()


def _local(spec: JobSpec, options: PeerOptions) -> JobSpec:
    """The job with the paths of this machine; without sources if a script's own layers bring the data.

    The batches of such a script are counted by the job's records, and no record is read.
    """
    local = relocated(spec, options.data_roots)
    return replace(local, data=replace(local.data, sources=())) if options.own_data else local


class Script:
    """The script that is this peer's solver. ``link``: the socket to it; None: the solver is a process."""

    def __init__(self, descriptor: int, leaving: Leaving) -> None:
        self.link = ScriptLink(descriptor, self._leaves) if descriptor >= 0 else None
        self.trainer: Trainer | None = None
        self._leaving = leaving

    def _leaves(self, reason: str) -> None:
        """Leave: the script has ended its loop, and trains no more."""
        if self.trainer is not None:
            self.trainer.rests = True
        self._leaving.ask(reason)


def _where(options: PeerOptions) -> Address:
    """The address on which the peer is to listen. Raises UsageError, also for one that needs a certificate."""
    where = choose_address(
        options.listen, options.advertise, options.endpoints, address_towards, _socket_name()
    )
    check_listener(where, options.security)
    return where


async def _listen(server: PeerServer, where: Address) -> str:
    """Let the server listen; returns the address that is advertised.

    Raises EnvironmentProblem for a folder that other users may write: they could put their own sockets there.
    """
    if (at := socket_path(where.listen)) is not None:
        folder_within(at.parent, "give --listen HOST:PORT")
    return where.advertised(await server.start())


def _record(peer: str, options: PeerOptions, placement: Placement, address: str, metrics: str) -> PeerRecord:
    """The record with which this peer registers. ``address`` and ``metrics``: where it is called, and scraped."""
    return PeerRecord(
        peer=peer,
        incarnation="",
        address=address,
        host=host_name(),
        pid=os.getpid(),
        state=State.JOINING.value,
        version=__version__,
        zone=options.zone,
        device=placement.device,
        device_name=placement.gpu.name if placement.gpu else "",
        device_memory_bytes=placement.gpu.memory_bytes if placement.gpu else 0,
        metrics=metrics,
    )


def _checkpoints_of(options: PeerOptions, peer: str) -> CheckpointFolder:
    """The folder of this peer's checkpoints, without unfinished ones of an earlier process."""
    checkpoints = options.run_dir / "checkpoints"
    folder_within(checkpoints, INSTEAD)
    folder = CheckpointFolder(checkpoints / peer)
    folder.sweep()
    return folder


def _socket_name() -> str:
    """The name of this peer's Unix socket, if it gets one. It holds the process id, for people who list the folder."""
    return peer_socket_name(os.getpid(), secrets.token_bytes(4))


async def _may_run_code(options: PeerOptions, store: EtcdStore) -> bool:
    return await store.guards_writes() if options.allow_code is None else options.allow_code


async def _finished(store: EtcdStore, spec: JobSpec, say: Say) -> bool:
    """Whether the job is finished, or was stopped; if so, a line says it."""

    def unbelieved(key: str, revision: int, why: str) -> None:
        say(f"etcd: {key} (revision {revision:,}) is ignored: {why}")

    if why := await why_stopped(store, JobKeys(spec.name)):
        say(f"job {spec.name} was stopped ({why}); nothing to do")
        return True
    end = await read_end(store, JobKeys(spec.name), spec, unbelieved)
    if end is None or not end.believed:
        return False
    say(f"job {spec.name} is finished already; nothing to do")
    return True


async def _finished_meanwhile(store: EtcdStore, spec: JobSpec, clock: SystemClock, cause: Cause) -> bool:
    """Whether the job is finished although this peer left before; False if etcd does not say it soon."""
    if cause is Cause.JOB_FINISHED:
        return True
    try:
        async with clock.timeout(FINISHED_WITHIN_S):
            return await _finished(store, spec, lambda _: None)
    except (StoreError, TimeoutError):
        return False


async def _placement(
    options: PeerOptions, built_from: EngineSpec, spec: JobSpec, peer: str, say: Say
) -> Placement:
    """The placement of this peer. A GPU is tried with the net before this peer registers.

    Raises EnvironmentProblem or ModelError when that fails.
    """
    if options.script_device:  # the script has built its net there
        return Placement(options.script_device)
    if not options.gpu:
        return Placement(CPU)
    wanted = parse_gpu(options.gpu, "--gpu")
    if options.engine != "pycaffe":  # the engine of tests computes on the CPU, and has no GPU to try
        return Placement(gpu_device(wanted or 0))
    say(f"{peer}: trying the net on {'a GPU' if wanted is None else f'GPU {wanted}'}")
    tried = await try_on_gpu(wanted, built_from, spec.data.tops)
    say(f"{peer}: trains on {tried.gpu.words()}")
    if tried.remark:
        say(f"{peer}: snapshots and corrections are slower than they could be: {tried.remark} ({GUIDE})")
    return Placement(gpu_device(tried.gpu.index), tried.gpu)


def _once(peer: str, warn: Say) -> Say:
    """A function that warns of a child's line once, also when the next child sends the same line."""
    said: set[str] = set()

    def notice(line: str) -> None:
        if line not in said:
            said.add(line)
            warn(f"{peer}: {line}")

    return notice


def _probe(options: PeerOptions, built_from: EngineSpec, spec: JobSpec) -> ProbeProcess | None:
    """The measurement of first gradients; None where the solver is a script's, or not Caffe's."""
    is_caffes = options.script_fd < 0 and built_from.engine == "pycaffe"
    return ProbeProcess(built_from, spec) if is_caffes else None


def _evaluator(built_from: EngineSpec, log: EventLog, say: Say) -> CaffeEvaluator | None:
    """The evaluator that tests the consensus; None where the engine is not Caffe."""
    if built_from.engine != "pycaffe":
        return None
    displayed = partial(_display, log, say, None) if built_from.debug_info else None
    return CaffeEvaluator(device=built_from.device, displayed=displayed)


def _display(log: EventLog, say: Say, number: int | None, lines: Sequence[str]) -> None:
    """Log and say the lines that Caffe prints. ``number``: of the display; None for the lines of debug_info."""
    log.emit(Event.DISPLAYED, number=number, lines=list(lines))
    for line in lines:
        say(line)


def _trainer(
    spec: JobSpec,
    built_from: EngineSpec,
    ring: BatchRing,
    clock: SystemClock,
    log: EventLog,
    say: Say,
    notice: Say,
    script: Script,
) -> Trainer:
    seeds = random.Random(built_from.noise_seed)

    def make_solver(board: WeightBoard | None) -> Solver:
        of_peer = replace(built_from, place=replace(trainer.place, seed=seeds.getrandbits(31)))
        displayed = partial(_display, log, say)
        return SolverProcess(
            of_peer, spec.schedule, ring, board, displayed=displayed, noticed=notice, script=script.link
        )

    def make_loader() -> Loader:
        skipped = trainer.note_skipped if spec.settings.corrupt_records == "skip" else None
        return LoaderProcess(spec.data, spec.settings.seed, ring, skipped, spec.first_record, notice)

    async def named(parts: Sequence[Part]) -> str:
        from gossip_caffe.data.naming import name_records  # noqa: PLC0415 - opens data, which a peer seldom must

        ranges = [(part.epoch, part.start, part.stop) for part in parts]
        return await asyncio.to_thread(name_records, spec, ranges)

    trainer = Trainer(
        batch_records=spec.data.batch_records,
        ring=ring,
        make_solver=make_solver,
        make_loader=make_loader,
        clock=clock,
        log=log,
        begins_with=spec.start,
        suspects=SuspectBatches(spec.iter_size, leave_out=spec.settings.corrupt_records == "skip"),
        name_records=named,
    )
    script.trainer = trainer
    return trainer
