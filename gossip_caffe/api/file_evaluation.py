"""The test of a .caffemodel file by the test nets of a solver file, without a job, for asynchronous callers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from gossip_caffe.api.evaluating import Evaluation, evaluated, nets_to_test, weights_of_file
from gossip_caffe.api.starting.job_options import NewJob, named_after
from gossip_caffe.api.starting.new_job import SILENT, Teller, read_spec
from gossip_caffe.job.relocation import DataRoot, relocated


def _unseen(done: int, passes: int) -> None:
    del done, passes


async def evaluate(
    solver: str | Path,
    weights: str | Path,
    *,
    iterations: int = 0,
    data_roots: tuple[str, ...] = (),
    on_pass: Callable[[int, int], None] = _unseen,
    tell: Teller = SILENT,
) -> Evaluation:
    """Run the TEST phase of a solver file on a .caffemodel file, without a job and without etcd.

    ``iterations``: passes of each net; 0: the solver's test_iter. Raises ModelError when there is no test.
    """
    roots = [DataRoot.parse(root) for root in data_roots]
    name = named_after(str(solver))
    spec = await asyncio.to_thread(read_spec, name, str(solver), NewJob(), checked=False, tell=tell)
    chosen = weights_of_file(weights)
    return await evaluated(spec, nets_to_test(relocated(spec, roots), iterations), chosen, on_pass)
