"""The TEST phase of nets on given weights, run by Caffe in a child process that does only this."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from gossip_caffe.background import within
from gossip_caffe.errors import ModelError
from gossip_caffe.job.spec.spec import NetTest
from gossip_caffe.observe.log.tested import Output
from gossip_caffe.solver.checks.caffe_errors import abort_cause
from gossip_caffe.solver.checks.debug_lines import debug_lines
from gossip_caffe.solver.gpu.device import CPU
from gossip_caffe.system.children import Child, ChildEnd

Model = Path | int
"""Weights as a .caffemodel: the path of a file, or the descriptor of a file in memory."""


def _silent(done: int, passes: int) -> None:
    del done, passes


class Evaluator(Protocol):
    """Tests weights on test data."""

    async def evaluate(
        self,
        nets: Sequence[NetTest],
        model: Model,
        number: int = 1,
        *,
        keep: bool = False,
        halted: bool = False,
    ) -> tuple[Output, ...]:
        """Return the outputs of all nets on these weights. Raises ModelError with the cause when a test fails.

        ``number``: the number of this test, from 1 on: its data continues where the data of the previous test ended,
        as in Caffe. ``keep``: True if another test follows, or ``close``. ``halted``: True if the peer's solver waits
        for this test.
        """
        ...

    async def close(self) -> None:
        """Free all that was kept for a further test."""
        ...


class CaffeEvaluator:
    """Tests with Caffe in a child process. ``threads``: the number of its BLAS threads; 0: the user's own setting.

    ``displayed`` is called with Caffe's lines about each layer, if the solver has debug_info.

    A child whose peer's solver waits for it computes on the solver's ``device``, with as many threads. Any other child
    computes on the CPU, beside the peers that train.
    """

    def __init__(
        self,
        threads: int = 1,
        device: str = CPU,
        displayed: Callable[[Sequence[str]], None] | None = None,
    ) -> None:
        self._threads = threads
        self._device = device
        self._displayed = displayed
        self._kept: _Session | None = None

    async def evaluate(
        self,
        nets: Sequence[NetTest],
        model: Model,
        number: int = 1,
        *,
        keep: bool = False,
        halted: bool = False,
    ) -> tuple[Output, ...]:
        """Test one model. With ``keep`` the child process stays for the next test."""
        if self._kept is not None and self._kept.halted != halted:
            await self.close()  # it computes on another device
        session, self._kept = self._kept or self._session(nets, halted=halted), None
        kept = False
        try:
            outputs = await session.test(model, number)
            kept = keep
        finally:
            if kept:
                self._kept = session
            else:
                await session.end()
        return outputs

    async def close(self) -> None:
        """End the child process that was kept."""
        session, self._kept = self._kept, None
        if session is not None:
            await session.end()

    async def score(
        self,
        net: NetTest,
        models: Sequence[Path],
        on_values: Callable[[int, Mapping[str, Sequence[float]]], None],
    ) -> tuple[Output, ...]:
        """Test one net on the device, on the weights of the files, which are loaded one after the other.

        ``on_values`` is called after each pass with its number, from 0 on, and the values of each output. Raises as
        ``evaluate_all``.
        """
        session = self._session([net], halted=True)
        try:
            return await session.test(models[-1], 1, under=models[:-1], on_values=on_values)
        finally:
            await session.end()

    async def evaluate_all(
        self,
        nets: Sequence[NetTest],
        models: Sequence[Model],
        on_pass: Callable[[int, int], None] = _silent,
        under: Sequence[Path] = (),
    ) -> list[tuple[Output, ...]]:
        """Test models one after the other, all on the same records.

        ``on_pass`` is called with (passes done, passes in all). ``under``: files that are loaded before each.
        Raises ModelError with the cause that Caffe printed.
        The child process has ended when this returns, also when it is cancelled.
        """
        one = sum(net.iterations for net in nets)
        session = self._session(nets)
        try:
            found = []
            for index, model in enumerate(models):
                before = index * one

                def told(done: int, before: int = before) -> None:
                    on_pass(before + done, len(models) * one)

                found.append(await session.test(model, 1, told, under=under))
            return found
        finally:
            await session.end()

    def _session(self, nets: Sequence[NetTest], *, halted: bool = False) -> _Session:
        threads, device = (0, self._device) if halted else (self._threads, CPU)
        environment = {"OPENBLAS_NUM_THREADS": str(threads)} if threads else None
        return _Session(nets, device, environment, self._displayed, halted=halted)


class _Session:
    """One child process that tests nets on one model after the other. ``halted``: the peer's solver waits for it."""

    def __init__(
        self,
        nets: Sequence[NetTest],
        device: str,
        environment: dict[str, str] | None,
        displayed: Callable[[Sequence[str]], None] | None,
        *,
        halted: bool,
    ) -> None:
        self.halted = halted
        self._nets = nets
        self._displayed = displayed
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._child = Child(
            "gossip_caffe.solver.evaluation.evaluation_child",
            self._messages.put_nowait,
            on_lines=self._printed,
        )
        self._child.start(environment)
        what = [dataclasses.asdict(net) for net in nets]
        self._child.send({"nets": what, "device": device, "debug_info": displayed is not None})

    def _printed(self, lines: Sequence[str]) -> None:
        if self._displayed is not None and (found := debug_lines(lines)):
            self._displayed(found)

    async def test(
        self,
        model: Model,
        number: int,
        on_pass: Callable[[int], None] = lambda _: None,
        *,
        under: Sequence[Path] = (),
        on_values: Callable[[int, Mapping[str, Sequence[float]]], None] | None = None,
    ) -> tuple[Output, ...]:
        """Test one model, loaded after the files ``under`` it. ``on_values``: see ``CaffeEvaluator.score``.

        Raises ModelError with the cause that Caffe printed; the child has ended then.
        """
        path, fds = (str(model), []) if isinstance(model, Path) else ("", [model])
        each = on_values is not None
        words = {"model": path, "number": number, "under": [str(file) for file in under], "each": each}
        self._child.send(words, fds)
        outputs: list[Output] = []
        done = 0
        for net in self._nets:
            while "outputs" not in (message := await self._next()):
                on_pass(done + message["pass"])
                if on_values is not None:
                    on_values(message["pass"] - 1, message["values"])
            done += net.iterations
            on_pass(done)
            outputs += [Output.from_record(entry) for entry in message["outputs"]]
        return tuple(outputs)

    async def end(self) -> None:
        """Kill the child; it has ended when this returns, also when this is cancelled."""
        self._child.signal(signal.SIGKILL)
        await asyncio.shield(self._child.wait())

    async def _next(self) -> dict[str, Any]:
        message: dict[str, Any]
        async with within(self._messages.get(), self._child.wait()) as (answer, ended):
            await asyncio.wait({answer, ended}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done() and not {"outputs", "pass"}.isdisjoint(message := answer.result()):
                return message
            if answer.done() and "failed" in (message := answer.result()):
                raise ModelError(f"the test failed: {message['failed']}", remedy=message["remedy"])
            raise _failed(await self._child.wait())


def _failed(end: ChildEnd) -> ModelError:
    cause, remedy = abort_cause(end.stderr)
    last = next((line.strip() for line in reversed(end.stderr) if line.strip()), end.how)
    return ModelError(
        f"the test failed: {cause or last}", remedy=remedy or "try it with 'gossip-caffe job validate'"
    )
