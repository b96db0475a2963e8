"""The cost of one synchronous round, beside gloo's all_reduce in the same run: some processes over loopback.

    python benchmarks/allreduce.py [--models 50,244] [--peers 4] [--repeats 12]
                                   [--far] [--others-python /venv/with/torch/bin/python] [--mpi]

A round is the product's own: it is formed, scattered, judged, committed, gathered, checked and applied, one after
another without steps between them. Without --others-python only its own figures are told. --far: the processes meet
over TCP, as peers of several machines do. --mpi: also rounds between ranks of one mpirun, beside MPI's own Allreduce.
docs/internals/benchmarks.md says what each figure means.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
from _mpi_ranks import mpirun_of
from _plain_peer import NoFiles
from numpy.typing import NDArray

from gossip_caffe.background import within
from gossip_caffe.clock import SystemClock
from gossip_caffe.gossip.transport.grpc_server import PeerServer
from gossip_caffe.gossip.transport.grpc_transport import GrpcTransport
from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.observe.log.events import Event
from gossip_caffe.peer.core.strategy import StrategyContext
from gossip_caffe.peer.sharing.synchronous import SynchronousStrategy
from gossip_caffe.solver.board import SnapshotInfo, WeightBoard

WARM_UP = 3
OPTIONS = {"": (), "apart": ("--mca", "pml", "ob1", "--mca", "btl", "tcp,self")}
"""The ways between ranks, and the options of Open MPI's mpirun that lead there."""


class PacelessBoard:
    """The board of a solver whose steps take no time: it waits at every gate as soon as the gate is set."""

    stalled_s = step_s = 0.0
    at_gate = True

    def __init__(self, size: int, seed: int) -> None:
        self.values: NDArray[np.float32] = np.random.default_rng(seed).standard_normal(size, dtype=np.float32)
        self.values *= np.float32(0.01)
        self.values += np.float32(0.1)
        self.size = self.exchanged = size
        self.iteration = 0

    @property
    def published(self) -> SnapshotInfo:
        return SnapshotInfo(1, self.iteration, self.iteration, 0, 0)

    def snapshot(self, out: NDArray[np.float32]) -> SnapshotInfo:
        np.copyto(out, self.values[: out.size])
        return self.published

    def add_correction(self, delta: NDArray[np.float32]) -> None:
        self.values += delta

    def set_gate(self, iteration: int | None) -> None:
        self.iteration = self.iteration if iteration is None else iteration


class Times:
    """An event log that keeps only when rounds were applied."""

    def __init__(self) -> None:
        self.applied: list[float] = []
        self.others: list[dict[str, object]] = []

    def emit(self, event: Event, **fields: object) -> None:
        if event is Event.ROUND and fields["outcome"] == "applied":
            self.applied.append(time.perf_counter())
        else:
            self.others.append(fields)


def strategy_of(
    rank: int,
    addresses: dict[str, str],
    board: PacelessBoard,
    transport: GrpcTransport,
    server: PeerServer,
    log: Times,
) -> SynchronousStrategy:
    """The strategy of one of the peers, ready for rounds with all others."""
    own = list(addresses)[rank]
    strategy = SynchronousStrategy(
        StrategyContext(
            peer=own,
            job="bench",
            fingerprint="bench",
            blobs=(),
            board=cast(WeightBoard, board),
            settings=JobSettings(strategy="sync", sync_start_peers=len(addresses)),
            own=lambda: (own, ""),
            partners=lambda: {name: at for name, at in addresses.items() if name != own},
            zones=dict,
            members=lambda: addresses,
            shared=lambda _: None,
            urgent=lambda: False,
            transport=transport,
            offload=asyncio.to_thread,
            clock=SystemClock(),
            rng=random.Random(rank),
            log=log,
            address=lambda: addresses[own],
            address_of=addresses.get,
            serve=server.serve,
        )
    )
    server.serve(strategy.answerer)
    strategy.accept()
    return strategy


async def one_of(rank: int, peers: int, values: int, repeats: int, far: int) -> None:
    """One process: prints its port, reads those of all, takes part in rounds, and prints the seconds of each."""
    names = [f"p{index}" for index in range(peers)]
    server, transport, log = PeerServer("127.0.0.1:0", NoFiles()), GrpcTransport(), Times()
    print(await server.start(), flush=True)
    if far:
        server.hide_nearby()
    line = await asyncio.to_thread(sys.stdin.readline)
    addresses = {name: f"127.0.0.1:{port}" for name, port in zip(names, json.loads(line), strict=True)}
    strategy = strategy_of(rank, addresses, PacelessBoard(values, rank), transport, server, log)
    async with within(strategy.run()) as (running,):
        while len(log.applied) < repeats + WARM_UP + 1:
            if running.done():
                running.result()
            await asyncio.sleep(0.01)
        seconds = [later - earlier for earlier, later in pairwise(log.applied)]
        print(json.dumps(seconds[WARM_UP : WARM_UP + repeats]), flush=True)
        await asyncio.to_thread(sys.stdin.readline)  # the others may still need this one's answers
    await server.stop()
    await transport.close()


def rounds(peers: int, values: int, repeats: int, *, far: bool = False) -> list[float]:
    """Seconds of each round, of ``peers`` processes."""
    with ExitStack() as started:
        processes = [
            started.enter_context(
                subprocess.Popen(
                    [sys.executable, __file__, "--worker", f"{rank},{peers},{values},{repeats},{far:d}"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for rank in range(peers)
        ]
        ports = [int(said(process)) for process in processes]
        for process in processes:
            tell(process, json.dumps(ports))
        seconds = [json.loads(said(process)) for process in processes]
        for process in processes:
            tell(process, "")
        return cast(list[float], seconds[0])


def over_mpi(mpirun: str, peers: int, values: int, repeats: int, way: str) -> tuple[list[float], list[float]]:
    """Seconds of each round over MPI, and of each Allreduce and the division, by the same ranks."""
    rank = Path(__file__).with_name("_allreduce_rank.py")
    command = [
        mpirun,
        *OPTIONS[way],
        "--bind-to",
        "none",
        "--allow-run-as-root",
        "--oversubscribe",
        "-n",
        str(peers),
    ]
    command += [sys.executable, str(rank), str(values), str(repeats), way]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    ours, of_mpi = json.loads(ran.stdout.splitlines()[-1])
    return ours, of_mpi


def said(process: subprocess.Popen[str]) -> str:
    """The next line of a process."""
    assert process.stdout is not None
    if not (line := process.stdout.readline()):
        raise SystemExit("a process has ended")
    return line


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def gloo(python: str, peers: int, values: int, repeats: int) -> list[float] | None:
    """Seconds of gloo's all_reduce of as many values by as many processes, and of the division; None without gloo."""
    others = Path(__file__).with_name("_others.py")
    done = subprocess.run(
        [python, str(others), "gloo-all-reduce", str(values), str(repeats), str(peers)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(done.stderr.strip(), file=sys.stderr)
        return None
    return cast(list[float], json.loads(done.stdout.splitlines()[-1]))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="50,244", help="megabytes of float32, with commas")
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--far", action="store_true", help="meet over TCP")
    parser.add_argument("--others-python", default="")
    parser.add_argument("--mpi", action="store_true")
    parser.add_argument(
        "--mpirun", default="", help="Open MPI's mpirun; default: beside this Python, or on $PATH"
    )
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        asyncio.run(one_of(*map(int, options.worker.split(","))))
        return 0
    told: dict[str, Any] = {"peers": options.peers, "repeats": options.repeats, "far": options.far}
    for megabytes in map(int, options.models.split(",")):
        values = megabytes * 1_000_000 // 4
        # By turns: what else the machine does falls on both alike.
        ours: list[float] = []
        of_gloo: list[float] = []
        for _ in range(3):
            ours += rounds(options.peers, values, options.repeats // 3 or 1, far=options.far)
            if options.others_python:
                of_gloo += gloo(options.others_python, options.peers, values, options.repeats // 3 or 1) or []
        told[f"round_s_{megabytes}"] = median(ours)
        sent = 2 * (options.peers - 1) / options.peers * megabytes / 1000
        told[f"sent_gb_per_s_{megabytes}"] = sent / median(ours)
        if of_gloo:
            told[f"gloo_s_{megabytes}"] = median(of_gloo)
            told[f"ratio_gloo_{megabytes}"] = median(of_gloo) / median(ours)
        if options.mpi:
            for way in OPTIONS:
                own, of_mpi = over_mpi(mpirun_of(options.mpirun), options.peers, values, options.repeats, way)
                ending = f"{'_' if way else ''}{way}_{megabytes}"
                told[f"round_over_mpi_s{ending}"] = median(own)
                told[f"mpi_s{ending}"] = median(of_mpi)
                told[f"ratio_mpi{ending}"] = median(of_mpi) / median(own)
                print(
                    f"{megabytes} MB {way}: a round over MPI {median(own):.3f} s, Allreduce {median(of_mpi):.3f} s"
                )
        print(
            f"{megabytes} MB: a round {median(ours):.3f} s",
            f"gloo {median(of_gloo):.3f} s" if of_gloo else "",
        )
    print(f"RESULT {json.dumps({name: round(value, 4) for name, value in told.items()})}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
