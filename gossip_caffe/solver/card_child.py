"""The process that looks at the cards, or tries a net on one; see ``card_trial`` for who asks.

One message to it: {"look": [numbers, none: all]}, or {"wanted": number or null, "build": EngineSpec, "tops":
[TopSpec]}. From it: {"found": Cards}; or {"chosen": Card} and, when an iteration was made, {"rehearsed": the engine's
remark}. Caffe ends the process on a mistake; the cause is on stderr then.
"""

from __future__ import annotations

import dataclasses
import resource
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gossip_caffe.children import Control, run_child
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.job.spec import TopSpec, read_fields
from gossip_caffe.solver.cards import Card, Cards, chosen
from gossip_caffe.solver.device import on_card
from gossip_caffe.solver.engine import EngineSpec


def serve(control: Control) -> None:
    """Do what is asked, and end."""
    received = control.receive(None)
    if received is None:
        return
    request = received[0]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # Caffe's aborts are expected here
    if "look" in request:
        control.send({"found": look(request["look"]).to_record()})
        return
    wanted = request["wanted"]
    card = chosen(look([] if wanted is None else [wanted]), wanted)
    control.send({"chosen": dataclasses.asdict(card)})
    spec = read_fields(EngineSpec, request["build"], "engine")
    tops = tuple(read_fields(TopSpec, entry, "top") for entry in request["tops"])
    control.send({"rehearsed": rehearsed(dataclasses.replace(spec, device=on_card(card.index)), tops)})


def look(wanted: Sequence[int]) -> Cards:
    """What there is; at some cards alone when ``wanted`` names them, for each that is looked at loses some memory."""
    import caffe  # noqa: PLC0415 - only this child may

    try:
        from caffe import _gossip  # noqa: PLC0415
    except ImportError:
        return _of_another_caffe(caffe, wanted)
    if not getattr(_gossip, "built_for_cuda", False):
        return Cards(caffe=caffe.__file__)
    absent = dict(_gossip.missing_libraries())
    found = Cards(
        caffe.__file__,
        built=True,
        missing=tuple(absent[name] for name in ("cuBLAS", "cuRAND") if name in absent),
        no_cudnn=absent.get("cuDNN", ""),
    )
    try:
        count = _gossip.device_count()
    except RuntimeError as error:
        return dataclasses.replace(found, reason=str(error))
    cards, reason = [], ""
    for index in sorted(set(range(count)).intersection(wanted or range(count))):
        try:
            cards.append(Card(index, *_gossip.device(index)))
        except RuntimeError as error:
            reason = f"card {index}: {error}"
    return dataclasses.replace(found, reason="" if cards else reason, count=count, cards=tuple(cards))


def _of_another_caffe(caffe: Any, wanted: Sequence[int]) -> Cards:
    """One that tells nothing: it ends the process unless the cards can be used, with its reason on stderr."""
    cards = tuple(map(Card, sorted(set(wanted or [0]))))
    for card in cards:
        caffe.set_device(card.index)
    return Cards(caffe.__file__, built=True, count=cards[-1].index + 1, cards=cards)


def rehearsed(spec: EngineSpec, tops: Iterable[TopSpec]) -> str:
    """Make one iteration on records of zeros, a snapshot and a correction; returns the engine's remark."""
    from gossip_caffe.solver.pycaffe_engine import PycaffeEngine  # noqa: PLC0415

    ring = BatchRing.create(tuple(tops), spec.batch_records, spec.iter_size)
    for sequence in range(spec.iter_size):
        for array in ring.reserve(0.0) or ():
            array[...] = 0
        ring.commit(sequence, spec.batch_records)
    engine = PycaffeEngine(spec, ring)
    engine.step(ring, spec.iter_size, 0.0)
    weights = np.empty(engine.layout.size, dtype=np.float32)
    engine.read_weights(weights)
    engine.add_to_weights(np.zeros(engine.layout.exchanged, dtype=np.float32))
    engine.history()
    return engine.remark


def main() -> int:
    """Entry of the process."""
    return run_child(serve)


if __name__ == "__main__":
    sys.exit(main())
