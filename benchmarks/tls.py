"""What certificates cost: exchanges, swaps of large models, connections and etcd, plain and by TLS in turns.

    python benchmarks/tls.py [--exchanges 60] [--swaps 8] [--connections 40] [--etcd-seconds 8]

Also the three ways that the second connection could be protected, over bare sockets: not at all (with a CRC-32), by
Python's ssl, and by AES-GCM in pieces, which is the one in use.

docs/internals/benchmarks.md says what each figure means.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from statistics import median

import numpy as np
from _plain_peer import NoFiles, PlainPeer, PlainWeights

from gossip_caffe.addresses import with_name
from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.gossip.codecs.message import Message
from gossip_caffe.gossip.protocol.outcome import OutcomeKind
from gossip_caffe.gossip.protocol.swap import PIECE_BYTES
from gossip_caffe.gossip.transport import weights_socket
from gossip_caffe.gossip.transport.grpc_server import PeerServer
from gossip_caffe.gossip.transport.grpc_transport import GrpcTransport
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.etcd.store import ModifiedAt, Put
from gossip_caffe.security.authority import Wanted, issue, make_authority
from gossip_caffe.security.certificate import context_of
from gossip_caffe.security.files import files_in
from gossip_caffe.security.identity import Role
from gossip_caffe.security.sealing import KEY_BYTES, Seals
from gossip_caffe.security.security import PLAIN, Security

LENET, ALEXNET = 431_080, 60_965_224
WAYS = ("plain", "tls")
SOCKETS = ("crc", "ssl", "gcm")
KEY = bytes(range(KEY_BYTES))
WARM_UP = 2
SHOWN_S = 20.0
TURNS = 4
"""So often each of two etcds is asked, in each order."""


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def identity(folder: Path, name: str, way: str) -> Security:
    return Security(files_in(folder / name, "folder")) if way == "tls" else PLAIN


async def answer(values: int, way: str, folder: Path) -> None:
    """Be the other peer until stdin closes; say the CPU time that it has taken at each line."""
    security = identity(folder, "b", way)
    server = PeerServer("127.0.0.1:0", NoFiles(), security=security)
    peer = PlainPeer("b", PlainWeights(values, 2, scale=0.01), "float32", GrpcTransport(security=security))
    server.serve(peer.answering)
    print(await server.start(), flush=True)
    server.hide_nearby()
    while await asyncio.to_thread(sys.stdin.readline):
        print(cpu_s(), flush=True)
    await server.stop()


class Partner:
    """A process that answers."""

    def __init__(self, values: int, way: str, folder: Path) -> None:
        command = [sys.executable, __file__, "--answer", str(values), way, str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        place = f"127.0.0.1:{self._line()}"
        self.address = with_name(place, "b") if way == "tls" else place

    def _line(self) -> str:
        if self.process.stdout is None or not (line := self.process.stdout.readline().strip()):
            raise SystemExit("a child did not start; see its message above")
        return line

    def cpu_s(self) -> float:
        if self.process.stdin is not None:
            print(file=self.process.stdin, flush=True)
        return float(self._line())


@contextmanager
def partners(values: int, folder: Path) -> Iterator[dict[str, Partner]]:
    made = {way: Partner(values, way, folder) for way in WAYS}
    try:
        yield made
    finally:
        for partner in made.values():
            partner.process.kill()
            partner.process.wait()


async def exchanged(values: int, repeats: int, folder: Path) -> dict[str, tuple[float, float]]:
    """Way → the median of an exchange's seconds, and the CPU seconds of both sides for one."""
    with partners(values, folder) as others:
        transports = {way: GrpcTransport(security=identity(folder, "a", way)) for way in WAYS}
        own = {
            way: PlainPeer("a", PlainWeights(values, 1, scale=0.01), "float32", transports[way])
            for way in WAYS
        }
        took: dict[str, list[float]] = {way: [] for way in WAYS}
        cpu: dict[str, float] = dict.fromkeys(WAYS, 0.0)
        began = {}
        for repeat in range(repeats + WARM_UP):
            if repeat == WARM_UP:
                began = {way: others[way].cpu_s() for way in WAYS}
            for way in WAYS if repeat % 2 else WAYS[::-1]:
                at, used = time.perf_counter(), cpu_s()
                outcome = await own[way].offering.offer_to("b", others[way].address)
                if outcome.kind is not OutcomeKind.APPLIED:
                    raise SystemExit(f"{way}: the exchange was not applied: {outcome}")
                if repeat >= WARM_UP:
                    took[way].append(time.perf_counter() - at)
                    cpu[way] += cpu_s() - used
        found = {
            way: (median(took[way]), (cpu[way] + others[way].cpu_s() - began[way]) / repeats) for way in WAYS
        }
        for transport in transports.values():
            await transport.close()
        return found


async def connected(repeats: int, folder: Path) -> dict[str, float]:
    """Way → the median seconds of a new connection with its first answer, less those of a further answer."""
    asked = Message("", "a", "bench", "bench")
    with partners(1, folder) as others:
        extra: dict[str, list[float]] = {way: [] for way in WAYS}
        for repeat in range(repeats + WARM_UP):
            for way in WAYS if repeat % 2 else WAYS[::-1]:
                transport = GrpcTransport(security=identity(folder, "a", way))
                times = []
                for _ in range(2):
                    at = time.perf_counter()
                    (await transport.snapshot(others[way].address, asked, SHOWN_S)).close()
                    times.append(time.perf_counter() - at)
                await transport.close()
                if repeat >= WARM_UP:
                    extra[way].append(times[0] - times[1])
        return {way: median(seconds) for way, seconds in extra.items()}


def sink(way: str, folder: Path) -> None:
    """Take what comes over one socket after another, and say the CPU time after each."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        buffer = memoryview(bytearray(PIECE_BYTES))
        while True:
            wire, _ = listener.accept()
            began = cpu_s()
            if way == "ssl":
                context = context_of(identity(folder, "b", "tls").tls or sys.exit(1), is_server=True)
                with context.wrap_socket(wire, server_side=True) as secured:
                    while secured.recv_into(buffer):
                        pass
            else:
                weights_socket.ready(wire)
                seals = Seals(KEY, answers=True) if way == "gcm" else None
                weights_socket.receive(wire, lambda piece: None, seals)  # noqa: ARG005
                wire.close()
            print(cpu_s() - began, flush=True)


def pieces(size: int) -> Iterator[memoryview]:
    data = np.random.default_rng(1).bytes(PIECE_BYTES)
    for start in range(0, size, PIECE_BYTES):
        yield memoryview(data)[: min(PIECE_BYTES, size - start)]


def sent(way: str, port: int, folder: Path) -> float:
    """Send 244 MB; returns the CPU seconds of this side."""
    size = 4 * ALEXNET
    wire = socket.create_connection(("127.0.0.1", port))
    began = cpu_s()
    if way == "ssl":
        context = context_of(identity(folder, "a", "tls").tls or sys.exit(1), is_server=False)
        with context.wrap_socket(wire) as secured:
            for piece in pieces(size):
                secured.sendall(piece)
    else:
        weights_socket.ready(wire)
        weights_socket.send(wire, pieces(size), Seals(KEY, answers=False) if way == "gcm" else None)
        wire.close()
    return cpu_s() - began


def protected(repeats: int, folder: Path) -> dict[str, float]:
    """Way → the CPU seconds of both sides for 244 MB one way."""
    children, ports = {}, {}
    for way in SOCKETS:
        command = [sys.executable, __file__, "--sink", way, str(folder)]
        children[way] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        ports[way] = int(_line(children[way]))
    try:
        took: dict[str, list[float]] = {way: [] for way in SOCKETS}
        for _ in range(repeats):
            for way in SOCKETS:
                took[way].append(sent(way, ports[way], folder) + float(_line(children[way])))
        return {way: median(seconds) for way, seconds in took.items()}
    finally:
        for child in children.values():
            child.kill()
            child.wait()


def _line(child: subprocess.Popen[str]) -> str:
    return child.stdout.readline().strip() if child.stdout is not None else ""


async def transacted(seconds: float, folder: Path) -> dict[str, float]:
    """Way → guarded transactions a second of one client."""
    servers = {way: EtcdServer(folder / f"etcd-{way}", tls=identity(folder, "etcd", way).tls) for way in WAYS}
    counts: dict[str, list[float]] = {way: [] for way in WAYS}
    try:
        for server in servers.values():
            server.start()
        stores = {
            way: EtcdStore(
                [servers[way].endpoint], SystemClock(), random.Random(1), security=identity(folder, "a", way)
            )
            for way in WAYS
        }
        for turn in range(2 * TURNS):
            for way in WAYS if turn % 2 else WAYS[::-1]:
                store = stores[way]
                revision = (await store.transact([], [Put("/bench/key", b"0")])).revision
                began, count = time.perf_counter(), 0
                while time.perf_counter() - began < seconds / TURNS / 2:
                    result = await store.transact(
                        [ModifiedAt("/bench/key", revision)], [Put("/bench/key", b"1")]
                    )
                    revision, count = result.revision, count + 1
                counts[way].append(count / (time.perf_counter() - began))
        for store in stores.values():
            await store.close()
        return {way: median(found) for way, found in counts.items()}
    finally:
        for server in servers.values():
            server.stop()


def row(what: str, plain: float, secured: float, unit: Callable[[float], str]) -> None:
    print(f"{what:>34} {unit(plain):>14} {unit(secured):>14} {secured / plain:>8.2f}", flush=True)


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"


def main() -> int:
    match sys.argv[1:]:
        case ["--answer", values, way, folder]:
            asyncio.run(answer(int(values), way, Path(folder)))
            return 0
        case ["--sink", way, folder]:
            sink(way, Path(folder))
            return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--exchanges", type=int, default=60)
    parser.add_argument("--swaps", type=int, default=8)
    parser.add_argument("--connections", type=int, default=40)
    parser.add_argument("--etcd-seconds", type=float, default=8.0, help="of transactions, each way")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gossip-caffe-tls-") as text:
        home = Path(text)
        make_authority(home / "ca", "bench", timedelta(days=1))
        for name in ("a", "b"):
            issue(home / "ca", Wanted((name,)), home / name, timedelta(days=1))
        of_etcd = Wanted(("etcd",), Role.VIEWER, hosts=("127.0.0.1",))
        issue(home / "ca", of_etcd, home / "etcd", timedelta(days=1))
        print(f"{'':>34} {'plain':>14} {'TLS':>14} {'ratio':>8}")
        lenet = asyncio.run(exchanged(LENET, options.exchanges, home))
        row("exchange of LeNet, p50", lenet["plain"][0], lenet["tls"][0], ms)
        row("exchange of LeNet, CPU of both", lenet["plain"][1], lenet["tls"][1], ms)
        alexnet = asyncio.run(exchanged(ALEXNET, options.swaps, home))
        row("swap of 244 MB, p50", alexnet["plain"][0], alexnet["tls"][0], ms)
        row("swap of 244 MB, CPU of both", alexnet["plain"][1], alexnet["tls"][1], ms)
        new = asyncio.run(connected(options.connections, home))
        row("new connection", new["plain"], new["tls"], ms)
        store = asyncio.run(transacted(options.etcd_seconds, home))
        row("guarded transactions of etcd", store["plain"], store["tls"], lambda rate: f"{rate:.0f}/s")
        raw = protected(options.swaps, home)
        row("244 MB one way by ssl, CPU", raw["crc"], raw["ssl"], ms)
        row("244 MB one way by AES-GCM, CPU", raw["crc"], raw["gcm"], ms)
    figures = {
        "ratio_exchange_p50": lenet["tls"][0] / lenet["plain"][0],
        "ratio_exchange_cpu": lenet["tls"][1] / lenet["plain"][1],
        "ratio_swap_p50": alexnet["tls"][0] / alexnet["plain"][0],
        "ratio_swap_cpu": alexnet["tls"][1] / alexnet["plain"][1],
        "connection_s": new["tls"],
        "connection_plain_s": new["plain"],
        "ratio_transactions": store["tls"] / store["plain"],
        "ratio_ssl_cpu": raw["ssl"] / raw["crc"],
        "ratio_gcm_cpu": raw["gcm"] / raw["crc"],
    }
    print(f"RESULT {json.dumps({name: round(figure, 4) for name, figure in figures.items()})}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
