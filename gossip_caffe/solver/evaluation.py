"""The TEST phase on given weights, run by Caffe in a process of its own that is there for just that."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from gossip_caffe.children import Child
from gossip_caffe.errors import ModelError
from gossip_caffe.job.spec import NetTest
from gossip_caffe.observe.tested import Output
from gossip_caffe.solver.abort import abort_cause

Model = Path | int
"""Weights as a .caffemodel: a file, or a descriptor of one in memory."""


def _silent(done: int, passes: int) -> None:
    del done, passes


class Evaluator(Protocol):
    """What tests weights."""

    async def evaluate(self, nets: Sequence[NetTest], model: Model) -> tuple[Output, ...]:
        """Outputs of all nets on these weights. Raises ModelError with the cause when that cannot be done."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class CaffeEvaluator:
    """Caffe in a child. ``niceness``: how much it yields to others; ``threads``: of its BLAS, 0 as the user has it."""

    niceness: int = 0
    threads: int = 1

    async def evaluate(self, nets: Sequence[NetTest], model: Model) -> tuple[Output, ...]:
        """Test one model."""
        return (await self.evaluate_all(nets, [model]))[0]

    async def evaluate_all(
        self,
        nets: Sequence[NetTest],
        models: Sequence[Model],
        on_pass: Callable[[int, int], None] = _silent,
    ) -> list[tuple[Output, ...]]:
        """Test models one after the other; ``on_pass`` gets (passes done, passes in all).

        Raises ModelError with the cause that Caffe printed. The child is gone when this returns, also when it is
        cancelled.
        """
        in_all = len(models) * sum(net.iterations for net in nets)
        found: list[tuple[Output, ...]] = []
        done = 0

        def heard(message: dict[str, Any]) -> None:
            nonlocal done
            if "pass" in message:
                on_pass(done + message["pass"], in_all)
            elif "outputs" in message:
                found.append(tuple(Output.from_record(entry) for entry in message["outputs"]))
                done += nets[(len(found) - 1) % len(nets)].iterations
                on_pass(done, in_all)

        child = Child("gossip_caffe.solver.evaluation_child", heard)
        child.start({"OPENBLAS_NUM_THREADS": str(self.threads)} if self.threads else None)
        try:
            task = {
                "nets": [dataclasses.asdict(net) for net in nets],
                "models": [str(model) if isinstance(model, Path) else "" for model in models],
                "niceness": self.niceness,
            }
            child.send(task, [model for model in models if isinstance(model, int)])
            end = await child.wait()
        finally:
            child.signal(signal.SIGKILL)
            await asyncio.shield(child.wait())
        if end.code != 0 or len(found) != len(models) * len(nets):
            cause, remedy = abort_cause(end.stderr)
            last = next((line.strip() for line in reversed(end.stderr) if line.strip()), end.how)
            raise ModelError(
                f"the test failed: {cause or last}",
                remedy=remedy or "try it with 'gossip-caffe job validate'",
            )
        size = len(nets)
        return [sum(found[at : at + size], ()) for at in range(0, len(found), size)]
