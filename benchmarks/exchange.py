"""What one exchange of weights costs: two processes over loopback, against copying the same bytes in memory.

    python benchmarks/exchange.py [--values 431080,5000000] [--repeats 20]

docs/benchmarks.md says what each figure means.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from statistics import median

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.clock import SystemClock
from gossip_caffe.errors import NotFound
from gossip_caffe.gossip.codec import CODECS
from gossip_caffe.gossip.exchange import Exchanger, OutcomeKind
from gossip_caffe.gossip.grpc_server import PeerServer
from gossip_caffe.gossip.grpc_transport import GrpcTransport
from gossip_caffe.solver.board import SnapshotInfo

Flat = NDArray[np.float32]


class PlainWeights:
    """Weights of a peer that does not train; a correction is added at once."""

    def __init__(self, size: int, seed: int) -> None:
        self.values: Flat = np.random.default_rng(seed).standard_normal(size, dtype=np.float32)

    @property
    def size(self) -> int:
        return self.values.size

    @property
    def exchanged(self) -> int:
        return self.values.size

    def snapshot(self, out: Flat) -> SnapshotInfo:
        np.copyto(out, self.values)
        return SnapshotInfo(version=1, iteration=0, batches=0, samples=0, applied=0)

    def add_correction(self, delta: Flat) -> None:
        self.values += delta


class NoFiles:
    """Nothing to pull."""

    def open_file(self, checkpoint: str, file: str, offset: int) -> tuple[int, AsyncIterator[bytes]]:
        raise NotFound(f"there is no {file} of {checkpoint} from {offset} on")


def exchanger(peer: str, weights: PlainWeights, codec: str, transport: GrpcTransport) -> Exchanger:
    made = Exchanger(
        peer=peer,
        job="bench",
        fingerprint="bench",
        codec=codec,
        weights=weights,
        transport=transport,
        clock=SystemClock(),
        rng=random.Random(peer),
    )
    made.accepting = None
    return made


async def answer(values: int, codec: str) -> None:
    """Be the other peer until stdin closes."""
    server = PeerServer("127.0.0.1:0", NoFiles())
    server.serve(exchanger("b", PlainWeights(values, 2), codec, GrpcTransport()))
    print(await server.start(), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()


async def offers(values: int, codec: str, port: int, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of each exchange, and of each copy of as many payload bytes, by turns."""
    transport = GrpcTransport()
    own = exchanger("a", PlainWeights(values, 1), codec, transport)
    source = np.ones(CODECS[codec].payload_bytes(values), dtype=np.uint8)
    target = np.empty_like(source)
    exchanges, copies = [], []
    for repeat in range(repeats + 3):
        began = time.perf_counter()
        outcome = await own.offer_to("b", f"127.0.0.1:{port}")
        took = time.perf_counter() - began
        if outcome.kind is not OutcomeKind.APPLIED:
            raise SystemExit(f"the exchange was not applied: {outcome}")
        began = time.perf_counter()
        np.copyto(target, source)
        if repeat >= 3:  # the first open the channel and touch fresh memory
            exchanges.append(took)
            copies.append(time.perf_counter() - began)
    await transport.close()
    return exchanges, copies


def codec_seconds(values: int, codec: str, repeats: int) -> tuple[float, float]:
    """Medians of encoding and of decoding."""
    flat = PlainWeights(values, 3).values
    out = np.empty_like(flat)
    encodes, decodes = [], []
    for _ in range(repeats):
        began = time.perf_counter()
        payload = CODECS[codec].encode(flat)
        encodes.append(time.perf_counter() - began)
        began = time.perf_counter()
        CODECS[codec].decode(payload, out)
        decodes.append(time.perf_counter() - began)
    return median(encodes), median(decodes)


def measure(values: int, codec: str, repeats: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--answer", str(values), codec]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as partner:
        if partner.stdout is None or not (port := partner.stdout.readline().strip()):
            raise SystemExit("the other side did not start; see its message above")
        exchanges, copies = asyncio.run(offers(values, codec, int(port), repeats))
        partner.communicate(input="")
    encode_s, decode_s = codec_seconds(values, codec, repeats)
    ratio = median(exchange / copy for exchange, copy in zip(exchanges, copies, strict=True))
    name = f"{codec}_{values}"
    print(
        f"{codec:>10} {values:>12,} {1000 * median(exchanges):>12.2f} {1000 * median(copies):>12.3f}"
        f" {ratio:>10.1f} {1000 * encode_s:>12.2f} {1000 * decode_s:>12.2f}",
        flush=True,
    )
    return {
        f"payload_bytes_{name}": CODECS[codec].payload_bytes(values),
        f"exchange_s_{name}": round(median(exchanges), 6),
        f"memcpy_s_{name}": round(median(copies), 6),
        f"ratio_{name}": round(ratio, 2),
        f"encode_s_{name}": round(encode_s, 6),
        f"decode_s_{name}": round(decode_s, 6),
    }


HEADINGS = ("codec", "values", "exchange ms", "memcpy ms", "ratio", "encode ms", "decode ms")
WIDTHS = (10, 12, 12, 12, 10, 12, 12)


def main() -> int:
    if sys.argv[1:2] == ["--answer"]:
        asyncio.run(answer(int(sys.argv[2]), sys.argv[3]))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--values", default="431080,5000000", help="sizes of the weights, separated by commas"
    )
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    figures: dict[str, float] = {}
    print(*(f"{heading:>{width}}" for heading, width in zip(HEADINGS, WIDTHS, strict=True)))
    for values in map(int, options.values.split(",")):
        for codec in CODECS:
            figures |= measure(values, codec, options.repeats)
    print(f"RESULT {json.dumps(figures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
