"""One rank of ``allreduce.py --mpirun``: rounds over MPI, and by turns with them MPI's own ``Allreduce``.

    mpirun -n PEERS python benchmarks/_allreduce_rank.py VALUES REPEATS [apart]

apart: the ranks send each other messages of MPI, as between machines.

Rank 0 prints the seconds of the rounds, and those of Allreduce with the division.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from itertools import pairwise

import numpy as np
from _mpi_ranks import begin, in_thread
from _plain_peer import NoFiles
from allreduce import PacelessBoard, Times, strategy_of

from gossip_caffe.background import within
from gossip_caffe.gossip.transport.grpc_server import PeerServer
from gossip_caffe.gossip.transport.grpc_transport import GrpcTransport
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.system.launch import Launch, launch_in

AT_A_TIME = 3
WARM_UP = 2


class HeldBoard(PacelessBoard):
    """A board whose solver comes to its gate only before the first ``rounds`` rounds."""

    rounds = 0

    def __init__(self, size: int, seed: int, log: Times) -> None:
        super().__init__(size, seed)
        self._log = log

    @property
    def at_gate(self) -> bool:  # type: ignore[override]
        return len(self._log.applied) < self.rounds


async def be_a_rank(
    launch: Launch, values: int, repeats: int, *, apart: bool
) -> tuple[list[float], list[float]]:
    """Seconds of rounds, and of Allreduce."""
    thread, ranks = await begin(launch, apart)
    server, transport, log = PeerServer("127.0.0.1:0", NoFiles(), ranks), GrpcTransport(ranks=ranks), Times()
    port = await server.start()

    from mpi4py import MPI  # noqa: PLC0415 - after it was begun

    world, peers = MPI.COMM_WORLD, MPI.COMM_WORLD.Get_size()
    told = await in_thread(thread, lambda: world.allgather((f"127.0.0.1:{port}", str(ranks.own))))
    addresses = {f"p{rank}": address for rank, (address, _) in enumerate(told)}
    for name, (address, rank) in zip(addresses, told, strict=True):
        ranks.changed(None, PeerRecord(name, "1", address, "host", 1, "training", mpi=rank))
    board = HeldBoard(values, launch.rank, log)
    strategy = strategy_of(launch.rank, addresses, board, transport, server, log)
    mine, theirs = np.ones(values, dtype=np.float32), np.empty(values, dtype=np.float32)

    def allreduce() -> float:
        world.Barrier()
        began = time.perf_counter()
        world.Allreduce(mine, theirs)
        np.divide(theirs, np.float32(peers), out=theirs)
        return time.perf_counter() - began

    ours: list[float] = []
    of_mpi: list[float] = []
    async with within(strategy.run()) as (running,):
        while len(ours) < repeats:
            await in_thread(thread, world.Barrier)
            begun = len(log.applied)
            board.rounds = begun + AT_A_TIME + 1  # the first round of a turn waits for the last rank to begin
            while len(log.applied) < board.rounds:
                if running.done():
                    running.result()
                await asyncio.sleep(0.005)
            applied = log.applied[begun:]
            ours += [later - earlier for earlier, later in pairwise(applied)]
            await in_thread(thread, world.Barrier)
            of_mpi += [await in_thread(thread, allreduce) for _ in range(AT_A_TIME)]
        await in_thread(thread, world.Barrier)
    for end in (transport.close(), server.stop(), asyncio.to_thread(thread.close, 10.0)):
        await end
    return ours[WARM_UP:], of_mpi[WARM_UP:]


def main() -> None:
    launch = launch_in(os.environ)
    if launch is None:
        raise SystemExit("this program is started by mpirun")
    taken = asyncio.run(be_a_rank(launch, int(sys.argv[1]), int(sys.argv[2]), apart="apart" in sys.argv))
    if launch.rank == 0:
        print(json.dumps(taken), flush=True)


if __name__ == "__main__":
    main()
