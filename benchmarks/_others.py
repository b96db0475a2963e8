"""How long others take to bring two peers' weights to each other; run by exchange.py with a Python that has them.

    python _others.py gloo|gloo-transfer|mpi|hivemind VALUES REPEATS
    python _others.py gloo-all-reduce VALUES REPEATS PEERS

prints one JSON list of seconds. Needs torch, mpi4py with an MPI, or hivemind; without it the exit status is 4. `gloo`
does what an exchange does: from a copy that does not change meanwhile it brings both sides' weights to their mean;
`gloo-transfer` and `mpi` only send each side's to the other.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

WARM_UP = 2


def timed(exchange: Callable[[], object], together: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each exchange, begun together."""
    seconds = []
    for _ in range(repeats + WARM_UP):
        together()
        began = time.perf_counter()
        exchange()
        seconds.append(time.perf_counter() - began)
    return seconds[WARM_UP:]


def gloo(rank: int, port: int, values: int, repeats: int, averages: bool) -> None:
    """One of two processes that send each other a tensor, and average."""
    import torch  # noqa: PLC0415
    from torch import distributed  # noqa: PLC0415

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    weights = torch.randn(values)
    mine, theirs = weights.clone(), torch.empty_like(weights)

    def transfer() -> None:
        receiving, sending = distributed.irecv(theirs, 1 - rank), distributed.isend(mine, 1 - rank)
        receiving.wait()
        sending.wait()

    def exchange() -> None:
        mine.copy_(weights)
        transfer()
        weights.add_(theirs.sub_(mine).mul_(0.5))

    seconds = timed(exchange if averages else transfer, distributed.barrier, repeats)
    distributed.destroy_process_group()
    if rank == 0:
        print(json.dumps(seconds), flush=True)


def both_gloo(values: int, repeats: int, averages: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "gloo-rank"]
    with subprocess.Popen([*command, "1", str(port), str(values), str(repeats), str(averages)]):
        gloo(0, port, values, repeats, averages)


def all_reduced(rank: int, port: int, values: int, repeats: int, peers: int) -> None:
    """One of several processes that bring their tensors to the mean by gloo's all_reduce."""
    import torch  # noqa: PLC0415
    from torch import distributed  # noqa: PLC0415

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=peers)
    weights = torch.randn(values)

    def mean() -> None:
        distributed.all_reduce(weights)
        weights.div_(peers)

    seconds = timed(mean, distributed.barrier, repeats)
    distributed.destroy_process_group()
    if rank == 0:
        print(json.dumps(seconds), flush=True)


def all_gloo(values: int, repeats: int, peers: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "all-reduce-rank"]
    arguments = [str(port), str(values), str(repeats), str(peers)]
    others = [subprocess.Popen([*command, str(rank), *arguments]) for rank in range(1, peers)]
    all_reduced(0, port, values, repeats, peers)
    for other in others:
        other.wait()


def mpi_rank(values: int, repeats: int) -> None:
    """One of two processes under mpiexec."""
    import numpy as np  # noqa: PLC0415
    from mpi4py import MPI  # noqa: PLC0415

    world = MPI.COMM_WORLD
    mine = np.random.default_rng(world.rank).standard_normal(values, dtype=np.float32)
    theirs = np.empty_like(mine)
    other = 1 - world.rank
    seconds = timed(lambda: world.Sendrecv(mine, other, recvbuf=theirs, source=other), world.Barrier, repeats)
    if world.rank == 0:
        print(json.dumps(seconds), flush=True)


def both_mpi(values: int, repeats: int) -> None:
    import mpi4py  # noqa: F401, PLC0415

    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        raise ImportError("mpiexec")
    command = [found, "--allow-run-as-root", "--oversubscribe", "-n", "2", sys.executable, __file__]
    subprocess.run([*command, "mpi-rank", str(values), str(repeats)], check=True)


def hivemind(values: int, repeats: int) -> None:
    """Two averagers that find each other; float32, and as little waiting for others as they allow."""
    import hivemind as hm  # noqa: PLC0415
    import torch  # noqa: PLC0415
    from hivemind.averaging import DecentralizedAverager  # noqa: PLC0415

    torch.set_num_threads(1)
    loopback = ["/ip4/127.0.0.1/tcp/0"]
    first = hm.DHT(start=True, host_maddrs=loopback)
    second = hm.DHT(initial_peers=first.get_visible_maddrs(), start=True, host_maddrs=loopback)
    averagers = [
        DecentralizedAverager(
            [torch.randn(values)],
            dht,
            start=True,
            prefix="bench",
            target_group_size=2,
            min_matchmaking_time=0.1,
            request_timeout=0.05,
            compression=hm.compression.NoCompression(),
        )
        for dht in (first, second)
    ]

    def exchange() -> None:
        steps = [averager.step(wait=False, timeout=60) for averager in averagers]
        for step in steps:
            step.result()

    seconds = timed(exchange, lambda: None, repeats)
    print(json.dumps(seconds), flush=True)
    for part in (*averagers, first, second):
        part.shutdown()


def main() -> int:
    try:
        match sys.argv[1:]:
            case ["gloo" | "gloo-transfer" as what, values, repeats]:
                both_gloo(int(values), int(repeats), what == "gloo")
            case ["gloo-rank", rank, port, values, repeats, averages]:
                gloo(int(rank), int(port), int(values), int(repeats), averages == "True")
            case ["gloo-all-reduce", values, repeats, peers]:
                all_gloo(int(values), int(repeats), int(peers))
            case ["all-reduce-rank", rank, port, values, repeats, peers]:
                all_reduced(int(rank), int(port), int(values), int(repeats), int(peers))
            case ["mpi", values, repeats]:
                both_mpi(int(values), int(repeats))
            case ["mpi-rank", values, repeats]:
                mpi_rank(int(values), int(repeats))
            case ["hivemind", values, repeats]:
                hivemind(int(values), int(repeats))
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except ImportError as error:
        print(f"{sys.argv[1]}: not installed for {sys.executable} ({error})", file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
