"""The time that each layer of a net takes for a forward and a backward pass, as ``caffe time`` measures it."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gossip_caffe.errors import EnvironmentProblem, ModelError
from gossip_caffe.job.spec.spec import NetTest
from gossip_caffe.solver.checks.caffe_errors import abort_of
from gossip_caffe.system.children import Child, ChildEnd

MODULE = "gossip_caffe.solver.timing.timing_child"


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One layer's mean times, in milliseconds."""

    name: str
    type: str
    forward_ms: float
    backward_ms: float

    @property
    def total_ms(self) -> float:
        """The time of both passes."""
        return self.forward_ms + self.backward_ms


@dataclass(frozen=True, slots=True)
class Pass:
    """One iteration: the time of each layer, and of all of them together, in microseconds."""

    forward_us: tuple[float, ...]
    backward_us: tuple[float, ...]
    all_forward_us: float
    all_backward_us: float
    total_us: float


@dataclass(frozen=True, slots=True)
class NetTimes:
    """The layers of a net with their mean times, and the mean times of the whole passes, in milliseconds."""

    layers: tuple[LayerTime, ...]
    iterations: int
    forward_ms: float
    backward_ms: float
    total_ms: float

    def share(self, layer: LayerTime) -> float:
        """The part of the time of all layers that one takes, from 0 to 1."""
        total = math.fsum(each.total_ms for each in self.layers)
        return layer.total_ms / total if total else 0.0


def times_of(layers: Sequence[tuple[str, str]], passes: Sequence[Pass]) -> NetTimes:
    """The means over the passes. ``layers``: name and type of each."""

    def mean_ms(values: Sequence[float]) -> float:
        return math.fsum(values) / 1000 / len(passes)

    return NetTimes(
        tuple(
            LayerTime(
                name,
                kind,
                mean_ms([each.forward_us[index] for each in passes]),
                mean_ms([each.backward_us[index] for each in passes]),
            )
            for index, (name, kind) in enumerate(layers)
        ),
        len(passes),
        mean_ms([each.all_forward_us for each in passes]),
        mean_ms([each.all_backward_us for each in passes]),
        mean_ms([each.total_us for each in passes]),
    )


async def time_layers(
    net: NetTest,
    phase: str,
    device: str,
    on_loss: Callable[[float], None],
    on_pass: Callable[[int, Pass], None],
) -> NetTimes:
    """Time the passes of a net in a child process.

    ``on_loss`` is called with the loss of a first pass that is not counted, ``on_pass`` after each counted one, with
    its number from 1 on. Raises ModelError with the cause that Caffe printed.
    """
    layers: list[tuple[str, str]] = []
    passes: list[Pass] = []
    failed: list[ModelError | EnvironmentProblem] = []

    def hear(message: dict[str, Any]) -> None:
        if "layers" in message:
            layers.extend((name, kind) for name, kind in message["layers"])
            on_loss(message["loss"])
        elif "pass" in message:
            forward, backward, *whole = message["pass"]
            passes.append(Pass(tuple(forward), tuple(backward), *whole))
            on_pass(len(passes), passes[-1])
        elif "failed" in message:
            failed.append(ModelError(message["failed"], remedy=message["remedy"]))

    child = Child(MODULE, hear)
    child.start()
    try:
        child.send({"net": dataclasses.asdict(net), "phase": phase, "device": device})
        end = await child.wait()
    finally:
        child.signal(signal.SIGKILL)
        await asyncio.shield(child.wait())
    if failed:
        raise failed[0]
    if end.code != 0 or len(passes) != net.iterations:
        raise _failed(end)
    return times_of(layers, passes)


def _failed(end: ChildEnd) -> ModelError:
    abort = abort_of(end.stderr)
    if abort is not None:
        return ModelError(
            f"the net cannot be timed: {abort.reason}", remedy=abort.remedy or "correct the net"
        )
    last = next((line.strip() for line in reversed(end.stderr) if line.strip()), end.how)
    return ModelError(f"the net cannot be timed: {last}", remedy="run 'gossip-caffe doctor'")
