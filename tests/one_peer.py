"""A job of one peer without its agent: real loader and solver processes over a real ring, beside a bare Caffe."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gossip_caffe.data.loader_port import LoaderProcess, PlannedBatch
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.solver.board import Flat
from gossip_caffe.solver.engines.engine import engine_spec
from gossip_caffe.solver.engines.layout import WeightLayout
from gossip_caffe.solver.engines.place import ALONE, LayerRank
from gossip_caffe.solver.gpu.device import CPU
from gossip_caffe.solver.solver_port import SolverProcess

DEADLINE_S = 120.0
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}
SLOTS = 16

_BARE = """
    import json
    import sys
    import caffe
    import numpy as np

    prototxt, iterations, start, layout, result, snapshot = sys.argv[1:]
    caffe.set_mode_cpu()
    solver = caffe.get_solver(prototxt)
    blobs = [solver.net.params[layer][index].data for layer, index in json.loads(layout)]
    first = np.concatenate([blob.reshape(-1) for blob in blobs])
    if start:
        at, weights = 0, np.load(start)
        for blob in blobs:
            blob[...] = weights[at : at + blob.size].reshape(blob.shape)
            at += blob.size
    if snapshot:
        solver.restore(snapshot)
    solver.step(int(iterations))
    np.save(result, [first, np.concatenate([blob.reshape(-1) for blob in blobs])])
"""


@dataclass(frozen=True, slots=True)
class Run:
    """Weights before and after, and the loss of each iteration that was trained one at a time."""

    layout: WeightLayout
    start: Flat
    weights: Flat
    losses: tuple[float, ...] = ()


def in_order(spec: JobSpec, batches: int) -> list[PlannedBatch]:
    """Whole batches, through the epochs in the order of the records: as Caffe's data layers read them."""
    data = spec.data
    planned = []
    for sequence in range(batches):
        parts, at, left = [], sequence * data.batch_records, data.batch_records
        while left:
            epoch, start = divmod(at, data.records)
            taken = min(left, data.records - start)
            parts.append((epoch, start, start + taken))
            at, left = at + taken, left - taken
        planned.append(PlannedBatch(sequence, tuple(parts)))
    return planned


class OnePeer:
    """A peer's children, fed with a job's records in their order."""

    def __init__(
        self,
        spec: JobSpec,
        *,
        modules: Path | None = None,
        noise_seed: int = 0,
        device: str = CPU,
        place: LayerRank = ALONE,
    ) -> None:
        self._spec = spec
        self.ring = BatchRing.create(spec.data.tops, spec.data.batch_records, max(SLOTS, 2 * spec.iter_size))
        engine = replace(engine_spec(spec, "pycaffe", noise_seed, device), place=place)
        environment = dict(ENVIRONMENT)
        if modules is not None:
            environment["PYTHONPATH"] = os.pathsep.join(
                [str(modules), *os.environ.get("PYTHONPATH", "").split()]
            )
        self.solver = SolverProcess(engine, spec.schedule, self.ring, None, environment)
        self._loader = LoaderProcess(spec.data, spec.settings.seed, self.ring)
        self._planned = 0
        self.layout: WeightLayout

    async def start(self, weights: Flat | None = None) -> None:
        """Build the net and open the data; from ``weights``, or from the solver's own."""
        async with asyncio.timeout(DEADLINE_S):
            self.layout, _ = await asyncio.gather(self.solver.build(), self._loader.start())
            await self.solver.start(weights)

    async def train(self, iterations: int) -> float:
        """Train so many iterations more; returns the loss of the last."""
        count = self._planned + iterations * self._spec.iter_size
        self._loader.plan(in_order(self._spec, count)[self._planned :])
        self._planned = count
        ends = [asyncio.ensure_future(end) for end in (self.solver.wait(), self._loader.wait())]
        try:
            async with asyncio.timeout(DEADLINE_S):
                while self.solver.board.batches < count:
                    for end in ends:
                        if end.done():
                            raise AssertionError(end.result().cause)
                    await asyncio.sleep(0.001)
        finally:
            for end in ends:
                end.cancel()
        return self.solver.board.loss

    def weights(self) -> Flat:
        """The newest snapshot."""
        out = np.empty(self.layout.size, dtype=np.float32)
        self.solver.board.snapshot(out)
        return out

    async def stop(self) -> None:
        """End both children; everything trained is then in the snapshot."""
        await asyncio.gather(self._loader.stop(), self.solver.stop())


async def trained(
    spec: JobSpec, iterations: int, *, watched: int = 0, modules: Path | None = None, device: str = CPU
) -> Run:
    """Train a job on one peer; of the first and of the last ``watched`` iterations each loss is noted.

    ``modules``: where the net's own Python layers are.
    """
    peer = OnePeer(spec, modules=modules, device=device)
    try:
        await peer.start()
        start = peer.weights()
        losses = [await peer.train(1) for _ in range(watched)]
        if between := iterations - 2 * watched:
            await peer.train(between)
        losses += [await peer.train(1) for _ in range(watched)]
        await peer.stop()
        return Run(peer.layout, start, peer.weights(), tuple(losses))
    finally:
        await peer.stop()
        peer.ring.close()


def bare(
    prototxt: Path,
    iterations: int,
    layout: WeightLayout,
    folder: Path,
    start: Flat | None,
    snapshot: Path | None = None,
) -> Run:
    """Plain Caffe with the user's own file and its own data layers, in a process of its own.

    ``snapshot``: a .solverstate that it restores first.
    """
    if start is not None:
        np.save(folder / "start.npy", start)
    result = folder / "result.npy"
    given = str(folder / "start.npy") if start is not None else ""
    arguments = [
        str(prototxt),
        str(iterations),
        given,
        json.dumps([[blob.layer, blob.index] for blob in layout.blobs]),
        str(result),
        str(snapshot or ""),
    ]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_BARE), *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={**os.environ, **ENVIRONMENT, "GLOG_minloglevel": "2"},
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, weights = np.load(result)
    return Run(layout, first, weights)
