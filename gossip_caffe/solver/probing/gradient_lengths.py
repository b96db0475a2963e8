"""The lengths of a job's first gradients: a solver of its own begins as the job begins, and makes some iterations.

The lengths depend on the job alone: its first weights, its seed and the records that its order begins with. So every
peer measures the same, but for the rounding of another machine's arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from gossip_caffe.data.loader import OpenSources
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import ModelError
from gossip_caffe.job.spec.data_spec import DataSpec
from gossip_caffe.job.spec.learning_rate import rate
from gossip_caffe.job.spec.spec import RateSchedule
from gossip_caffe.solver.engines.engine import EngineSpec, SolverEngine

Batch = Sequence[Sequence[int]]
"""The records of one batch: parts of (epoch, start, stop)."""


def gradient_lengths(
    make_engine: Callable[[EngineSpec, BatchRing], SolverEngine],
    spec: EngineSpec,
    data: DataSpec,
    schedule: RateSchedule,
    batches: Sequence[Batch],
    first_record: int = 0,
) -> list[float]:
    """Train on the batches at the schedule's rate; the length of each iteration's gradient, before any clipping.

    The length is L2 over all parameters, as Caffe's clip_gradients takes it. It is inf from the iteration on whose loss
    is not finite. ``first_record``: see OpenSources. Raises DataError, or ModelError for a net that cannot be trained.
    """
    ring = BatchRing.create(data.tops, data.batch_records, spec.iter_size)
    sources = OpenSources(data, spec.seed, first_record)
    lengths: list[float] = []
    try:
        engine = make_engine(spec, ring)
        engine.load_first_weights()
        engine.clip_gradients(math.inf)
        for batch in batches:
            arrays = ring.reserve(0.0)
            if arrays is None:
                raise ModelError(
                    "the net has not taken the batches of an iteration", remedy="report this defect"
                )
            records = sources.fill([list(part) for part in batch], arrays, skipped=_leave_out)
            if not records:
                continue  # all of them are corrupt
            ring.commit(ring.head, records, sources.rows)
            if ring.ready < spec.iter_size:
                continue
            at = schedule.first_iteration + len(lengths)
            loss = engine.step(ring, spec.iter_size, rate(schedule, at))
            lengths.append(engine.gradient_length if math.isfinite(loss) else math.inf)
            if not math.isfinite(loss):
                break
    finally:
        sources.close()
        ring.close()
    return lengths


def _leave_out(epoch: int, record: int, reason: str) -> None:
    del epoch, record, reason
