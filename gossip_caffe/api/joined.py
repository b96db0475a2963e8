"""A user's own script as a peer: its solver trains in its own process, in its own loop."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.api.agent_process import AgentProcess
from gossip_caffe.api.job_creation import created_if_missing
from gossip_caffe.api.own_loop import LOOP
from gossip_caffe.api.places import endpoints
from gossip_caffe.errors import ExitCode, GossipCaffeError, UsageError
from gossip_caffe.job.code import OPTION
from gossip_caffe.peer.core.certificates import names_by_certificate
from gossip_caffe.peer.core.lifecycle import GRACE_S
from gossip_caffe.security.given import or_of_environment
from gossip_caffe.security.security import Security
from gossip_caffe.solver.engines.engine import EngineSpec
from gossip_caffe.solver.gpu.device import CPU, gpu_device

START_LOOK_S = 0.1
LEAVE_DEADLINE_S = GRACE_S + 5.0


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of the job's records for this peer. ``arrays``: top → values, float32, valid until the next step.

    The first axis counts records: it is shorter than the net's batch at the end of an epoch.
    """

    records: int
    arrays: Mapping[str, NDArray[np.float32]]

    def into(self, net: Any) -> None:
        """Copy the values into the blobs of those names of a ``caffe.Net``, and give these blobs the batch's size.

        The blobs are tops of Input layers. Raises UsageError when the net has no blob of a name.
        """
        for name, values in self.arrays.items():
            if name not in net.blobs:
                raise UsageError(
                    f"the net has no blob {name!r}", remedy=f"give it an Input layer with the top {name!r}"
                )
            blob = net.blobs[name]
            if tuple(blob.data.shape) != values.shape:
                blob.reshape(*values.shape)
            blob.data[...] = values


class JoinedPeer:
    """This script as a peer of a job. Made by ``join``; use it in a ``with`` block.

    - ``name``: the peer's name. ``solver``: the script's solver. ``agent_pid``: the process id of its agent.
    - ``goes_on``: False once the job is finished, or this peer was asked to leave: ``step`` trains no more then.
    """

    def __init__(
        self, solver: Any, agent: AgentProcess, name: str, gpu: int | None, *, is_made_here: bool
    ) -> None:
        from gossip_caffe.solver.engines.script_engine import (  # noqa: PLC0415 - it imports Caffe
            ScriptEngine,
            tell_layers,
        )
        from gossip_caffe.solver.script_side import ScriptSide  # noqa: PLC0415

        self.name = name
        self.agent_pid = agent.pid
        self._make = solver if is_made_here else None
        self.solver: Any = None if is_made_here else solver
        self._agent = agent
        self._code: int | None = None
        self._due = 0
        self._seen = self._lives = 0

        def engine(spec: EngineSpec) -> ScriptEngine:
            tell_layers(spec.place)
            if self._make is not None:
                self.solver = self._make()
            return ScriptEngine(self.solver, spec, gpu)

        self._side = ScriptSide(agent.control, engine)

    @property
    def rank(self) -> int:
        """The number of the sequence of data that this peer's own layers train: 0 to ``count`` − 1.

        No two living peers have the same while no more peers than ``count`` live.
        """
        return self._side.place.rank

    @property
    def count(self) -> int:
        """The job's number of sequences: its setting ``layer_ranks``; 1 where the net reads the job's records."""
        return self._side.place.count

    @property
    def passes(self) -> int:
        """The passes of this rank that were made before this peer joined: its own layers begin behind them."""
        return self._side.passes

    @property
    def goes_on(self) -> bool:
        """True while the job lacks steps of this peer."""
        return not self._side.is_over

    @property
    def finished(self) -> bool:
        """True once the job is finished."""
        return self._code == ExitCode.OK

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step, by the job's schedule at its global progress."""
        return self._side.learning_rate

    def step(self, iterations: int = 1) -> bool:
        """Train ``iterations`` iterations, with an exchange where one is due. Returns ``goes_on``.

        It waits for nothing but its batch queue: until the job has a batch for this peer. Raises ModelError when the
        loss is not finite, and the error for which the agent ended.
        """
        for _ in range(iterations):
            self._due = self._due or self._side.ready()
            if not self._due:
                return self._over()
            self._side.step(self._due, made=False)
            self._due = 0
            self._lives, self._seen = self._side.lives, int(self.solver.iter)
        return self.goes_on or self._over()

    def exchange_if_due(self) -> bool:
        """Account for the steps that the script has made by ``solver.step`` since the last call. Returns ``goes_on``.

        Corrections are added and snapshots are published as in ``step``. Then it waits for the batch of the next step,
        and sets that step's learning rate.
        """
        made = int(self.solver.iter) - self._seen
        if not made:
            self._side.serve()
        for _ in range(made):
            self._due = self._due or self._side.ready()
            if not self._due or self._side.lives != self._lives:
                break  # the weights were replaced meanwhile, and further steps are lost with them
            self._side.step(self._due, made=True)
            self._due = 0
        self._seen = int(self.solver.iter)
        self._due = self._due or self._side.ready()
        self._note_life()
        return bool(self._due) or self._over()

    def batches(self) -> Iterator[Batch]:
        """Yield the batches of the job's records that are this peer's to train, until the job is finished.

        Train each by ``step()``, or by ``solver.step(1)`` and ``exchange_if_due()``. Raises UsageError when a batch is
        left out, and for a job whose iterations have several batches (iter_size).
        """
        while True:
            self._due = self._due or self._side.ready()
            ring = self._side.ring
            if not self._due or ring is None:
                self._over()
                return
            if not ring.tops:
                raise UsageError(
                    "this job has no records to share out, or own_data was asked for",
                    remedy="train by step() alone",
                )
            if self._side.batches_of_an_iteration != 1:
                raise UsageError(
                    f"the job's iterations have {self._side.batches_of_an_iteration} batches (iter_size)",
                    remedy="create the job with iter_size: 1 and a larger batch_size",
                )
            taken = ring.take(0.0)
            if taken is None:
                continue
            samples, lives = self._side.samples, self._side.lives
            arrays = {top.name: values for top, values in zip(ring.tops, taken.arrays, strict=True)}
            yield Batch(taken.records, arrays)
            if self._side.samples == samples and self._side.lives == lives and self.goes_on:
                raise UsageError(
                    "a batch was not trained",
                    remedy="call peer.step(), or exchange_if_due() after solver.step(1)",
                )

    def leave(self) -> None:
        """Leave in good order: what was learned is shared, and other peers train the rest. The block's end does it."""
        side = self._side
        give_up_at = time.monotonic() + LEAVE_DEADLINE_S
        side.leave("the script leaves")
        while not side.is_over and time.monotonic() < give_up_at:
            side.idle()
        self._code = self._agent.ended()

    def begin(self) -> None:
        """Wait until this peer trains. ``join`` calls it. Raises the error for which the agent could not join."""
        side = self._side
        while not side.trains and not side.is_over:
            side.serve(START_LOOK_S)
        self._note_life()
        self._due = side.ready()
        if not self._due:
            self._over()

    def _note_life(self) -> None:
        """Count the solver's iterations from here when its weights were replaced: they were set back with them."""
        if self._side.lives != self._lives:
            self._lives = self._side.lives
            self._seen = int(self.solver.iter)

    def _over(self) -> bool:
        """Note how the agent has ended. Returns False, or raises the error for which it ended."""
        if self._code is None:
            self._code = self._agent.ended()
            if (error := self._error()) is not None:
                raise error
        return False

    def _error(self) -> GossipCaffeError | None:
        if self._code is None or (error := self._agent.error(self._code)) is None:
            return None
        return self._side.failed or error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._code is not None:
            return
        if kind is None or issubclass(kind, KeyboardInterrupt | SystemExit | GeneratorExit):
            self.leave()
            return
        # An error of the script is the death of its peer: nothing that it learned since its last exchange is kept.
        self._agent.kill()
        self._code = self._agent.ended()


def join(
    solver: Any | Callable[[], Any],
    *,
    etcd: str | None = None,
    job: str,
    cluster: str = "",
    create: str | Path = "",
    settings: Mapping[str, object] | None = None,
    own_data: bool = False,
    gpu: int | None = None,
    name: str = "",
    run_dir: str | Path = "gossip-caffe-run",
    listen: str = "",
    advertise: str = "",
    zone: str = "",
    data_roots: Sequence[str] = (),
    allow_code: bool | None = None,
    security: Security | None = None,
) -> JoinedPeer:
    """Let this script's own pycaffe solver train a job as one of its peers, and return when it trains.

    - ``solver``: the solver, or a function that makes it, which is called after the net's own Python layers were told
      their rank (docs/data.md). Its net may have been changed before: all peers of the job need the same layers and
      shapes. The first peer of a job founds it with its weights; every other gets the consensus in place of its own.
    - ``etcd``, ``cluster``: where the job is, as in ``connect``. ``job``: its name. ``create``, ``settings``: make it
      of this solver file, with these settings, if it is not there.
    - ``own_data``: the net reads its data itself, although the job has records: these only count its batches.
    - ``gpu``: the number of the GPU on which the script computes (``caffe.set_mode_gpu``); None: the CPU.
    - ``name``: the peer's name; "": that of its certificate, else a random one. ``run_dir``: the folder of its events,
      checkpoints and log.
    - ``security``: the identity, of ``identity``; None: that of the environment.
    - ``listen``, ``advertise``, ``zone``, ``data_roots``, ``allow_code``: as for ``gossip-caffe peer start``.

    The agent is a child process, which dies with the script. Raises GossipCaffeError with the reason when this peer
    cannot join.
    """
    security = or_of_environment(security)
    where = endpoints(etcd, cluster, security)
    name = name or (*names_by_certificate(security, listen, where), f"p-{secrets.token_hex(3)}")[0]
    if create:
        LOOP.call(created_if_missing(where, job, str(create), settings or {}, security))
    run_dir = Path(run_dir)
    words = ["--etcd", ",".join(where), "--job", job, "--name", name, "--run-dir", str(run_dir)]
    words += ["--script-device", CPU if gpu is None else gpu_device(gpu)]
    words += ["--own-data"] if own_data else []
    given = {"--listen": listen, "--advertise": advertise, "--zone": zone}
    words += [word for option, value in given.items() if value for word in (option, value)]
    words += [word for root in data_roots for word in ("--data-root", root)]
    if allow_code is not None:
        words += [OPTION if allow_code else "--no-allow-code"]
    words += security.arguments
    agent = AgentProcess(words, run_dir / f"{name}.log")
    peer = JoinedPeer(solver, agent, name, gpu, is_made_here=not hasattr(solver, "net"))
    try:
        peer.begin()
    except BaseException:
        agent.kill()
        agent.ended()
        raise
    return peer
