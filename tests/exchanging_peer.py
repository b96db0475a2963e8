"""A small peer in a process of its own: the product's exchange, transport, weight board, solver loop and event log.

It takes commands as JSON lines (one exchange at a time) and tells what it reaches in the same way. ``hold`` names
where it stops until it is told to go on: "checked" (what came is whole and in order, nothing is applied yet) or
"answered" (the answering side has applied its half, and nothing of its answer has left).
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ParamSpec, TypeVar
from unittest.mock import patch

import numpy as np

from gossip_caffe.addresses import with_name
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.clock import SystemClock
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.gossip.codecs.message import Message
from gossip_caffe.gossip.protocol import local_peer, offering
from gossip_caffe.gossip.protocol.answering import Answering
from gossip_caffe.gossip.protocol.local_peer import LocalPeer
from gossip_caffe.gossip.protocol.offering import Offering
from gossip_caffe.gossip.protocol.payload import decoded
from gossip_caffe.gossip.protocol.transport import Carry
from gossip_caffe.gossip.transport import grpc_server, weights_socket
from gossip_caffe.gossip.transport.grpc_server import PeerServer
from gossip_caffe.gossip.transport.grpc_transport import GrpcTransport
from gossip_caffe.job.spec.spec import JobSettings, RateSchedule, TopSpec
from gossip_caffe.observe.log.writing import JsonLinesLog
from gossip_caffe.peer.sharing.pairwise import PairwiseStrategy
from gossip_caffe.security.files import files_in
from gossip_caffe.security.security import PLAIN, Security
from gossip_caffe.solver.engines.engine import EngineSpec
from gossip_caffe.solver.stepped_solver import SteppedSolver

P = ParamSpec("P")
T = TypeVar("T")

FEATURES = 30_000
"""300,010 weights: more than one frame, and more than one piece."""
LONG_S = 60.0
FIXED = RateSchedule("fixed", 0.1, 0.0, 0.0, 0, (), 1)


def say(**message: object) -> None:
    print(json.dumps(message), flush=True)


class Gate:
    """Where an exchange is held."""

    def __init__(self) -> None:
        self.hold = ""
        self._open = asyncio.Event()

    async def reached(self, point: str) -> None:
        if point == self.hold and not self._open.is_set():
            say(at=point)
            await self._open.wait()

    def go(self) -> None:
        self._open.set()


class HeldAnswerer:
    """The answering side, held between applying and answering; it says when an offer comes and when it is over."""

    def __init__(self, answering: Answering, gate: Gate) -> None:
        self._answering = answering
        self._gate = gate

    async def receive(
        self, header: Message, payload_bytes: int, read: Callable[[], Awaitable[Message]]
    ) -> Message:
        return await self._told(header, self._answering.receive(header, payload_bytes, read))

    async def receive_swap(self, header: Message, carry: Carry) -> Message:
        return await self._told(header, self._answering.receive_swap(header, carry))

    async def _told(self, header: Message, answering: Awaitable[Message]) -> Message:
        say(receiving=header.exchange_id)
        try:
            answer = await answering
            await self._gate.reached("answered")
            return answer
        finally:
            say(over=header.exchange_id)

    async def answer(self, offer: Message) -> Message:
        return await self._answering.answer(offer)

    async def show(self, request: Message) -> Message:
        return await self._answering.show(request)


class Life:
    """One peer's weights and exchanges, from fresh ones on."""

    def __init__(
        self, name: str, seed: int, hold: str, log: Path, transport: GrpcTransport, secured: bool = False
    ) -> None:
        self._secured = secured
        self.gate = Gate()
        self.gate.hold = hold
        self._name = name
        self._transport = transport
        ring = BatchRing.create((TopSpec("data", (FEATURES,)), TopSpec("label", ())), 1, 1)
        spec = EngineSpec("numpy", "", iter_size=1, batch_records=1, seed=seed)
        self._solver = SteppedSolver(spec, FIXED, ring, monotonic=time.monotonic)
        self._log = JsonLinesLog(log.parent, name, SystemClock())
        self._seed = seed
        self.local: LocalPeer
        self.offering: Offering
        self.answering: Answering

    async def begin(self) -> None:
        layout = await self._solver.build()
        await self._solver.start(None)
        self.local = LocalPeer(
            name=self._name,
            job="job",
            fingerprint=layout.fingerprint,
            weights=self._solver.board,
            clock=SystemClock(),
            rng=random.Random(self._seed),
            offload=self._elsewhere,
        )
        self.offering = Offering(
            self.local, self._transport, "float32"
        )  # it remembers the offers that it gave up
        self.answering = Answering(self.local)
        self.local.accepting = None
        self._exchanging(0)  # its log is that of the answers, too

    async def _elsewhere(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        result = await asyncio.to_thread(work, *args, **kwargs)
        if work is decoded or work.__name__ == "half":
            await self.gate.reached("checked")
        return result

    def _exchanging(self, port: int) -> PairwiseStrategy:
        return PairwiseStrategy(
            peer=self.local,
            offering=self.offering,
            answering=self.answering,
            board=self._solver.board,
            settings=JobSettings(),
            own=lambda: (self._name, ""),
            partners=lambda: {
                "b": with_name(f"127.0.0.1:{port}", "b") if self._secured else f"127.0.0.1:{port}"
            },
            zones=lambda: {"b": ""},
            shared=lambda _: None,
            urgent=lambda: False,
            clock=SystemClock(),
            rng=random.Random(self._seed),
            log=self._log,
        )

    async def offer(self, port: int) -> None:
        outcome = await self._exchanging(port).exchange()
        if outcome is not None:
            say(outcome=outcome.kind.value, exchange=outcome.exchange_id, reason=outcome.reason)

    def write_weights(self, path: Path) -> None:
        """What others would get now, which is what the solver has once it has made its way between two steps."""
        board = self._solver.board
        waiting, added = (np.empty(board.size, dtype=np.float32) for _ in range(2))
        board.snapshot(waiting)
        self._solver.advance(1)
        board.snapshot(added)
        np.save(path, waiting if np.array_equal(waiting, added) else np.full_like(waiting, np.nan))
        say(weights=str(path))


async def serve(name: str, patience_s: float, certificates: str) -> None:
    local_peer.OFFLOAD_FROM_VALUES = 1
    security = Security(files_in(Path(certificates) / name, "folder")) if certificates else PLAIN
    server = PeerServer("127.0.0.1:0", CheckpointFolder(Path()), security=security)
    transport = GrpcTransport(security=security)
    port = await server.start()
    weights_port = server.weights_port
    say(port=port, weights_port=weights_port)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    lives: list[Life] = []
    tasks: set[asyncio.Task[None]] = set()
    while line := await commands.readline():
        command = json.loads(line)
        match command.pop("do"):
            case "begin":
                weights_socket.SILENCE_S = grpc_server.RECEIPT_SILENCE_S = patience_s
                log = Path(command["log"])
                lives = [Life(name, command["seed"], command["hold"], log, transport, bool(certificates))]
                await lives[0].begin()
                offering.SWAP_FROM_VALUES = 0 if command["swaps"] else 1 << 60
                server._listener.port = command["weights_port"] or weights_port
                server.hide_nearby()  # the faults strike TCP
                server.serve(HeldAnswerer(lives[0].answering, lives[0].gate))
                say(begun=name)
            case "offer":
                task = asyncio.ensure_future(offer(lives[0], **command))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            case "straight":
                server._listener.port = weights_port
                weights_socket.SILENCE_S = grpc_server.RECEIPT_SILENCE_S = LONG_S
            case "go":
                lives[0].gate.go()
            case "weights":
                lives[0].write_weights(Path(command["path"]))


async def offer(life: Life, port: int, deadline_s: float) -> None:
    with patch.object(Offering, "deadline_s", lambda _, partner: deadline_s):
        await life.offer(port)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], float(sys.argv[2]), sys.argv[3]))
