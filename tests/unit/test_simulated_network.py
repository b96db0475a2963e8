"""The simulator's network: what messages and pieces of files do where a machine's link takes few bytes a second."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.errors import CheckpointRefused, ExchangeFailed
from gossip_caffe.gossip.codecs.message import Message
from gossip_caffe.gossip.transport.file_transfer import PULL_SILENCE_S
from gossip_caffe.sim.machine import Machine
from gossip_caffe.sim.network import HEADER_BYTES, LinkConditions, SimulatedNetwork, Wire
from gossip_caffe.sim.virtual_time import run, sleep

NEARLY_S = 1e-3
DELAY_S = 0.01
OFFER = Message("a-1", "a", "job", "fingerprint", payload=bytes(300))
FILE, FILE_BYTES = "model", 500


@dataclass
class Answers:
    """Answers all, and remembers when offers came."""

    payload: bytes = b""

    def __post_init__(self) -> None:
        self.came_s: list[float] = []

    async def receive(
        self, header: Message, payload_bytes: int, read: Callable[[], Awaitable[Message]]
    ) -> Message:
        del header, payload_bytes
        offer = await read()
        self.came_s.append(now())
        return replace(offer, peer="b", payload=self.payload)

    async def show(self, request: Message) -> Message:
        return replace(request, peer="b", payload=self.payload)


def now() -> float:
    return asyncio.get_running_loop().time()


def two_machines(folder: Path | None = None) -> tuple[SimulatedNetwork, Wire, Answers]:
    """A network of a, whose wire this is, and b, which answers."""
    network = SimulatedNetwork(random.Random(1), LinkConditions(delay_s=(DELAY_S, DELAY_S)))
    for name in ("a", "b"):
        network.machines[name] = Machine(name)
    answers = Answers()
    network.answerers["b"] = answers  # type: ignore[assignment]
    if folder is not None:
        network.folders["b"] = CheckpointFolder(folder)
        (folder / "c1").mkdir()
        (folder / "c1" / FILE).write_bytes(bytes(FILE_BYTES))
    return network, Wire(network, network.machines["a"]), answers


@given(
    offered=st.integers(0, 5000),
    answered=st.integers(0, 5000),
    up=st.floats(50.0, 1e4),
    back=st.floats(50.0, 1e4),
)
def test_an_exchange_takes_what_both_links_take_and_the_delay(
    offered: int, answered: int, up: float, back: float
) -> None:
    async def course() -> None:
        network, wire, answers = two_machines()
        answers.payload = bytes(answered)
        began = now()
        await wire.exchange("b", replace(OFFER, payload=bytes(offered)), 1e6)
        assert now() - began == pytest.approx(2 * DELAY_S, abs=NEARLY_S)
        network.machines["a"].link.narrow(up)
        network.machines["b"].link.narrow(back)
        began = now()
        answer = await wire.exchange("b", replace(OFFER, payload=bytes(offered)), 1e6)
        taken = (HEADER_BYTES + offered) / up + (HEADER_BYTES + answered) / back + 2 * DELAY_S
        assert now() - began == pytest.approx(taken, abs=NEARLY_S)
        assert len(answer.payload) == answered

    run(course())


def test_an_offer_that_leaves_too_slowly_fails_at_its_deadline_and_arrives_late() -> None:
    async def course() -> None:
        network, wire, answers = two_machines()
        link = network.machines["a"].link
        link.narrow(100.0)
        began = now()
        for _ in range(2):
            with pytest.raises(ExchangeFailed, match="no answer within 1 s"):
                await wire.exchange("b", OFFER, 1.0)
        assert now() - began == pytest.approx(2.0, abs=NEARLY_S)
        await sleep(60.0)
        # The second one's turn did not come before its deadline, so nothing of it left.
        assert [at - began for at in answers.came_s] == [pytest.approx(5.0 + DELAY_S, abs=NEARLY_S)]
        link.widen(100.0)
        began = now()
        await wire.exchange("b", OFFER, 1.0)
        assert now() - began == pytest.approx(2 * DELAY_S, abs=NEARLY_S)

    run(course())


def test_messages_of_one_sender_arrive_in_the_order_in_which_they_were_sent() -> None:
    async def course() -> None:
        network, wire, _ = two_machines()
        network.weather = LinkConditions()
        network.machines["a"].link.narrow(2000.0)
        arrived: list[int] = []

        async def sent(number: int) -> None:
            await wire.exchange("b", replace(OFFER, payload=bytes(10 * (30 - number))), 60.0)
            arrived.append(number)

        await asyncio.gather(*(sent(number) for number in range(30)))
        assert arrived == list(range(30))

    run(course())


def test_who_is_cancelled_while_he_asks_for_weights_holds_up_nobody() -> None:
    async def course() -> None:
        network, wire, _ = two_machines()
        network.machines["a"].link.narrow(10.0)
        asking = [asyncio.ensure_future(wire.snapshot("b", OFFER, 1e6)) for _ in range(3)]
        await sleep(1.0)
        for task in asking[:2]:
            task.cancel()
        began = now()
        await asking[2]
        assert now() - began == pytest.approx(HEADER_BYTES / 10.0 + 2 * DELAY_S, abs=NEARLY_S)

    run(course())


async def pulled(wire: Wire) -> int:
    return sum([len(piece) async for piece in wire.pull("b", "job", "c1", FILE, 0)])


def test_a_file_takes_what_its_holders_link_takes(tmp_path: Path) -> None:
    async def course() -> None:
        network, wire, _ = two_machines(tmp_path)
        network.machines["b"].link.narrow(100.0)
        began = now()
        assert await pulled(wire) == FILE_BYTES
        assert now() - began == pytest.approx((HEADER_BYTES + FILE_BYTES) / 100.0 + DELAY_S, abs=NEARLY_S)

    run(course())


@pytest.mark.parametrize("what", ["too narrow", "cut off", "silent"])
def test_a_holder_of_whom_nothing_comes_is_given_up(tmp_path: Path, what: str) -> None:
    async def course() -> None:
        network, wire, _ = two_machines(tmp_path)
        network.machines["b"].link.narrow(10.0 if what == "too narrow" else 100.0)
        began, pulling = now(), asyncio.ensure_future(pulled(wire))
        await sleep(1.0)
        if what == "cut off":
            network.separate(["a"], ["b"])
        if what == "silent":
            network.silent.add("b")
        with pytest.raises(CheckpointRefused, match="sent nothing for 20 s"):
            await pulling
        assert now() - began == pytest.approx(PULL_SILENCE_S + DELAY_S, abs=NEARLY_S)

    run(course())


def test_a_holder_that_dies_or_starts_again_meanwhile_breaks_off(tmp_path: Path) -> None:
    async def course() -> None:
        network, wire, answers = two_machines(tmp_path)
        for again in (False, True):
            network.machines["b"].link.narrow(100.0)
            pulling = asyncio.ensure_future(pulled(wire))
            await sleep(1.0)
            if again:
                network.machines["b"] = Machine("b")
            else:
                network.answerers.pop("b")
            with pytest.raises(CheckpointRefused, match="b broke off"):
                await pulling
            network.answerers["b"] = answers  # type: ignore[assignment]

    run(course())
