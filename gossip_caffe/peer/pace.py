"""How fast the job is, and what follows for this peer: pure arithmetic of progress and learning rate."""

from __future__ import annotations

from gossip_caffe.job.learning_rate import Ramp, factor
from gossip_caffe.job.spec import JobSettings

AHEAD_S = 1.0
"""How much work a peer claims ahead: enough to ride over a slow store, little enough to be taken over quickly."""


def samples_of_others(job_samples: int, own_done_samples: int) -> int:
    """Samples that others have trained, given the job's done count and what this peer has in it."""
    return max(0, job_samples - own_done_samples)


def steered_rate(
    ramp: Ramp | None, settings: JobSettings, living: int, progress_samples: int, budget_samples: int
) -> tuple[Ramp, float]:
    """What the schedule's rate is multiplied by now that ``living`` peers train, and how that goes on.

    A peer begins (``ramp`` None) with the schedule's own rate. It goes to the scaling for so many peers within the
    warm-up's share of the budget, and again to a higher one when more have joined.
    """
    length = settings.warmup * budget_samples
    begun = ramp if ramp is not None else Ramp(1.0, progress_samples, 1.0)
    turned = begun.turned(factor(settings.lr_scaling, living), progress_samples, length)
    return turned, turned.at(progress_samples, length)


def checkpoint_interval(settings: JobSettings, budget_samples: int) -> int:
    """Samples of the whole job between two checkpoints: the setting, or a twentieth of the budget."""
    return settings.checkpoint_every_samples or max(1, budget_samples // 20)


def claims_wanted(
    *,
    queued_records: int,
    batch_records: int,
    chunk_records: int,
    prefetch_batches: int,
    records_per_s: float,
) -> int:
    """How many chunks to claim: none while half of what should be ahead is queued, then enough to fill it up.

    Ahead is a prefetch queue, or a second of work. Claiming in lots keeps transactions few.
    """
    ahead = max(prefetch_batches * batch_records, round(records_per_s * AHEAD_S))
    if 2 * queued_records > ahead:
        return 0
    return max(1, (ahead - queued_records) // chunk_records)
