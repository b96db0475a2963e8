"""What one exchange of weights costs: two processes over loopback, against plain sockets that push and pull as much.

    python benchmarks/exchange.py [--models 2,50,244] [--codecs float32,float16] [--repeats 15]
                                  [--others-python /venv/with/torch/bin/python]

With --others-python also against torch.distributed's gloo, mpi4py and hivemind, as far as that Python has them.

docs/internals/benchmarks.md says what each figure means.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
from _plain_peer import NoFiles, PlainPeer, PlainWeights
from numpy.typing import NDArray

from gossip_caffe.gossip.averaging.average import halve
from gossip_caffe.gossip.averaging.bound import WARM_AFTER, Bound
from gossip_caffe.gossip.codecs.codec import CODECS
from gossip_caffe.gossip.protocol.offering import SWAP_FROM_VALUES
from gossip_caffe.gossip.protocol.outcome import OutcomeKind
from gossip_caffe.gossip.transport.grpc_server import PeerServer
from gossip_caffe.gossip.transport.grpc_transport import GrpcTransport

Flat = NDArray[np.float32]


def push_pull(port: int, payload: bytearray) -> float:
    """Seconds to push as many bytes over a plain socket and to pull as many back."""
    view = memoryview(payload)
    with socket.create_connection(("127.0.0.1", port)) as wire:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire.sendall(len(view).to_bytes(8, "big"))
        began = time.perf_counter()
        wire.sendall(view)
        receive(wire, view)
        return time.perf_counter() - began


def receive(wire: socket.socket, view: memoryview) -> None:
    """Fill ``view`` from a socket."""
    here = 0
    while here < len(view):
        if not (count := wire.recv_into(view[here : here + (1 << 20)])):
            raise SystemExit("the other side hung up")
        here += count


def echo(listener: socket.socket) -> None:
    """Take what is pushed, whole, and give as much back, call after call."""
    kept = bytearray()
    while True:
        wire, _ = listener.accept()
        with wire:
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            size = bytearray(8)
            receive(wire, memoryview(size))
            if len(kept) != (length := int.from_bytes(size, "big")):
                kept = bytearray(length)
            receive(wire, memoryview(kept))
            wire.sendall(kept)


def used() -> tuple[float, int]:
    """CPU seconds and peak resident bytes of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime, 1024 * usage.ru_maxrss


async def answer(values: int, codec: str, nearby: bool) -> None:
    """Be the other peer until stdin closes; then say what it took."""
    server = PeerServer("127.0.0.1:0", NoFiles())
    server.serve(PlainPeer("b", PlainWeights(values, 2), codec, GrpcTransport()).answering)
    print(await server.start(), flush=True)
    if not nearby:
        server.hide_nearby()
    started_cpu_s, _ = used()
    await asyncio.to_thread(sys.stdin.read)
    cpu_s, peak_bytes = used()
    print(json.dumps([cpu_s - started_cpu_s, peak_bytes]), flush=True)
    await server.stop()


def echo_for_ever() -> None:
    """Be the other end of the plain socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        echo(listener)


async def offers(
    values: int, codec: str, port: int, echo_port: int, repeats: int
) -> tuple[list[float], list[float], float]:
    """Seconds of each exchange, and of each plain push and pull of as many bytes, by turns; CPU seconds of all."""
    transport = GrpcTransport()
    own = PlainPeer("a", PlainWeights(values, 1), codec, transport)
    exchanges, plain = [], []
    cpu_s = 0.0
    payload = bytearray(b"\1") * CODECS[codec].payload_bytes(
        values
    )  # pages that are there, as the exchange's are
    for repeat in range(repeats + WARM_UP):
        pushed = await asyncio.to_thread(push_pull, echo_port, payload)
        began, cpu_began_s = time.perf_counter(), used()[0]
        outcome = await own.offering.offer_to("b", f"127.0.0.1:{port}")
        took = time.perf_counter() - began
        cpu_s += used()[0] - cpu_began_s
        if outcome.kind is not OutcomeKind.APPLIED:
            raise SystemExit(f"the exchange was not applied: {outcome}")
        if repeat >= WARM_UP:  # the first open the channel and touch fresh memory
            exchanges.append(took)
            plain.append(pushed)
    await transport.close()
    return exchanges, plain, cpu_s


def offer(values: int, codec: str, port: int, echo_port: int, repeats: int) -> None:
    """Be the offering peer: print what it measured."""
    print(json.dumps(asyncio.run(offers(values, codec, port, echo_port, repeats))), flush=True)


@contextmanager
def child(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """This script in another role, for as long as it is needed."""
    command = [sys.executable, __file__, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def first_line(process: subprocess.Popen[str]) -> str:
    if process.stdout is None or not (line := process.stdout.readline().strip()):
        raise SystemExit("a child did not start; see its message above")
    return line


def measure(megabytes: int, values: int, codec: str, repeats: int, nearby: bool) -> dict[str, float]:
    """Of two peers who find out that they are on one machine, or (not ``nearby``) take each other to be apart."""
    with child("--echo") as plain_end, child("--answer", values, codec, nearby) as partner:
        port, echo_port = first_line(partner), first_line(plain_end)
        with child("--offer", values, codec, port, echo_port, repeats) as own:
            exchanges, plain, own_cpu_s = json.loads(first_line(own))
        partner_cpu_s, partner_peak_bytes = json.loads(partner.communicate(input="")[0])
    with child("--answer", 1, codec, nearby) as empty:  # what the interpreter and its libraries take
        first_line(empty)
        _, base_bytes = json.loads(empty.communicate(input="")[0])
    ratio = median(plain_s / exchange_s for plain_s, exchange_s in zip(plain, exchanges, strict=True))
    gigabytes = 2 * CODECS[codec].payload_bytes(values) * (repeats + WARM_UP) / 1e9
    figures = {
        "exchange_s": round(median(exchanges), 4),
        "tcp_s": round(median(plain), 4),
        "ratio_tcp": round(ratio, 3),
        "model_bytes_per_s": round(8 * values / median(exchanges)),
        "cpu_s_per_gb": round((own_cpu_s + partner_cpu_s) / gigabytes, 2),
        "peak_models": round((partner_peak_bytes - base_bytes) / (4 * values), 2),
    }
    way = codec if nearby else f"{codec}_apart"
    print(
        f"{way:>16} {4 * values / 1e6:>9.1f}", *(f"{figure:>18}" for figure in figures.values()), flush=True
    )
    return {f"{name}_{way}_{megabytes}": figure for name, figure in figures.items()}


def bounded(values: int, repeats: int) -> float:
    """How many times as long a half takes with its bound as without, by turns: CPU time, the least of each.

    The bound needs the own length, which the pass takes where it took the partner's before there was a bound.
    """
    mine, theirs = (np.random.default_rng(seed).standard_normal(values, dtype=np.float32) for seed in (1, 2))
    out = np.empty_like(mine)
    off, on = (Bound(limit, values, lambda: True) for limit in (0.0, 0.25))
    for bound in (off, on):
        for _ in range(WARM_AFTER):
            bound.note_applied()
    least = {id(off): float("inf"), id(on): float("inf")}
    for repeat in range(4 * repeats):
        for bound in (off, on) if repeat % 2 else (on, off):
            began = time.thread_time()
            bound.reach(halve(mine, theirs, out, bound.warming))
            least[id(bound)] = min(least[id(bound)], time.thread_time() - began)
    return least[id(on)] / least[id(off)]


def others(
    python: str, megabytes: int, values: int, repeats: int, own_s: Mapping[str, float]
) -> dict[str, float]:
    """What others take for as many float32, and how many times as long that is; those that run."""
    figures = {}
    for name in ("gloo", "gloo-transfer", "mpi", "hivemind"):
        command = [python, str(Path(__file__).with_name("_others.py")), name, str(values), str(repeats)]
        try:
            ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=300, check=False)
        except subprocess.TimeoutExpired:
            print(f"{name:>16} {4 * values / 1e6:>9.1f}  not done within 300 s", flush=True)
            continue
        lists = [line for line in ran.stdout.splitlines() if line.startswith("[")]
        if ran.returncode != 0 or not lists:
            print(
                f"{name:>16} {4 * values / 1e6:>9.1f}  does not run here (status {ran.returncode})",
                flush=True,
            )
            continue
        took_s = median(json.loads(lists[-1]))
        key = name.replace("-", "_")
        figures[f"{key}_s_{megabytes}"] = round(took_s, 4)
        for way, exchange_s in own_s.items():
            figures[f"ratio_{key}_{way}_{megabytes}"] = round(took_s / exchange_s, 3)
        print(f"{name:>16} {4 * values / 1e6:>9.1f} {took_s:>18.4f}", flush=True)
    return figures


MODELS = {2: 431_080, 50: 12_500_000, 244: 60_965_224}
"""Megabytes as float32, rounded, and the values: LeNet, a small ResNet, AlexNet."""
WARM_UP = 2
HEADINGS = ("exchange s", "TCP s", "ratio to TCP", "model bytes/s", "CPU s/GB", "peak in models")


def main() -> int:
    match sys.argv[1:]:
        case ["--answer", values, codec, nearby]:
            asyncio.run(answer(int(values), codec, nearby == "True"))
            return 0
        case ["--echo"]:
            echo_for_ever()
            return 0
        case ["--offer", values, codec, port, echo_port, repeats]:
            offer(int(values), codec, int(port), int(echo_port), int(repeats))
            return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="2,50,244", help=f"which of {', '.join(map(str, MODELS))} (MB)")
    parser.add_argument("--codecs", default="float32,float16", help=f"which of {', '.join(CODECS)}")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--others-python", default="", help="a Python that has torch, mpi4py or hivemind")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    print(f"{'codec':>16} {'MB':>9}", *(f"{heading:>18}" for heading in HEADINGS))
    for megabytes in map(int, options.models.split(",")):
        for codec in options.codecs.split(","):
            # Small models' weights travel in the offer and the answer: for them it is the same.
            for near in (True, False) if MODELS[megabytes] >= SWAP_FROM_VALUES else (True,):
                figures |= measure(megabytes, MODELS[megabytes], codec, options.repeats, near)
        if options.others_python:
            keys = {way: f"exchange_s_{way}_{megabytes}" for way in ("float32", "float32_apart")}
            own_s = {way: figures[key] for way, key in keys.items() if key in figures}
            figures |= others(options.others_python, megabytes, MODELS[megabytes], options.repeats, own_s)
        figures[f"ratio_bounded_{megabytes}"] = round(bounded(MODELS[megabytes], options.repeats), 4)
        rates = [figures.get(f"model_bytes_per_s_{codec}_{megabytes}") for codec in ("float16", "float32")]
        if rates[0] and rates[1]:
            figures[f"ratio_float16_over_float32_{megabytes}"] = round(rates[0] / rates[1], 3)
    print(f"RESULT {json.dumps(figures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
