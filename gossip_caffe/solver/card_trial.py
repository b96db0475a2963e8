"""Before a peer registers: a child looks at the cards, takes one, and makes one iteration of the net on it.

Caffe ends its process when there is no driver, no card of that number, or too little memory, and it takes memory only
when it first computes. So all of that is tried where it harms nobody, and becomes one line.
"""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gossip_caffe.children import Child, ChildEnd
from gossip_caffe.errors import EnvironmentProblem, GossipCaffeError, ModelError
from gossip_caffe.job.spec import TopSpec, read_fields
from gossip_caffe.solver.abort import abort_of
from gossip_caffe.solver.cards import Card, Cards
from gossip_caffe.solver.engine import EngineSpec

DEADLINE_S = 600.0
"""The first use of a card may compile its kernels for it."""
MODULE = "gossip_caffe.solver.card_child"


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """A card on which the net has made an iteration. ``remark``: what of it is slow here, and why; else empty."""

    card: Card
    remark: str = ""


async def look_at_cards(wanted: Sequence[int] = ()) -> Cards:
    """What there is; ``wanted``: at these alone. Raises EnvironmentProblem when pycaffe cannot say."""
    messages, end = await _heard({"look": list(wanted)})
    found = next((message["found"] for message in messages if "found" in message), None)
    if found is None:
        raise _failed(messages, end, None)
    return Cards.from_record(found)


async def rehearse(wanted: int | None, spec: EngineSpec, tops: tuple[TopSpec, ...]) -> Rehearsed:
    """Try the net on a card; ``wanted``: its number, None for the one with the most free memory.

    Raises EnvironmentProblem when there is no such card or it has too little memory, ModelError when Caffe refuses the
    net.
    """
    request = {
        "wanted": wanted,
        "build": dataclasses.asdict(spec),
        "tops": [dataclasses.asdict(top) for top in tops],
    }
    messages, end = await _heard(request)
    said = {kind: message[kind] for message in messages for kind in message}
    card = read_fields(Card, said["chosen"], "card") if "chosen" in said else None
    if card is None or "rehearsed" not in said:
        raise _failed(messages, end, card)
    return Rehearsed(card, said["rehearsed"])


async def _heard(request: dict[str, Any]) -> tuple[list[dict[str, Any]], ChildEnd]:
    messages: list[dict[str, Any]] = []
    child = Child(MODULE, messages.append)
    child.start({"OPENBLAS_NUM_THREADS": "1"})
    try:
        child.send(request)
        async with asyncio.timeout(DEADLINE_S):
            return messages, await child.wait()
    except TimeoutError:
        raise EnvironmentProblem(
            f"the card does not answer within {DEADLINE_S:.0f} s", remedy="see what 'nvidia-smi' says of it"
        ) from None
    finally:
        child.signal(signal.SIGKILL)
        await child.wait()


def _failed(messages: list[dict[str, Any]], end: ChildEnd, card: Card | None) -> GossipCaffeError:
    """The error of a child that did not come to its end."""
    for message in messages:
        if "failed" in message:
            return EnvironmentProblem(message["failed"], remedy=message["remedy"])
    abort = abort_of(end.stderr)
    if card is None:
        last = next((line.strip() for line in reversed(end.stderr) if line.strip()), end.how)
        return EnvironmentProblem(
            f"the cards cannot be looked at: {abort.reason if abort else last}",
            remedy="run 'gossip-caffe doctor', or train without --gpu",
        )
    if abort is None:
        return EnvironmentProblem(
            f"the net cannot be tried on {card.words()}: it ended ({end.how}) without a reason"
        )
    if "out of memory" in abort.reason or "ALLOC_FAILED" in abort.reason:
        return EnvironmentProblem(
            f"{card.words()} has too little memory for this net: {abort.reason}",
            remedy="use a smaller batch_size, another card, or fewer peers on this one",
        )
    if not abort.refused:
        return ModelError(abort.reason, remedy=abort.remedy)
    refused = f"layer {abort.layer!r}" if abort.layer else "the net"
    return ModelError(f"Caffe refused {refused} on {card.words()}: {abort.reason}", remedy=abort.remedy)
