"""The progress of the whole job, as this peer knows it, and what follows: learning rate and checkpoint interval."""

from __future__ import annotations

from gossip_caffe.gossip.policy.cadence import Outlook
from gossip_caffe.job.spec.gradient_clip import UNKNOWN, GradientClip, given, scaling
from gossip_caffe.job.spec.learning_rate import Ramp, factor
from gossip_caffe.job.spec.spec import JobSettings, JobSpec
from gossip_caffe.membership.etcd.polling import poll_interval_s
from gossip_caffe.shards.epochs import Epochs
from gossip_caffe.shards.ledger import Ledger
from gossip_caffe.solver.board import WeightBoard

LOOK_EVERY_S = 0.5


def look_after_s(living: int) -> float:
    """Seconds between two reads of the job's progress by one peer, when ``living`` peers train."""
    return poll_interval_s(LOOK_EVERY_S, living)


def checkpoint_interval(settings: JobSettings, budget_samples: int) -> int:
    """Samples of the whole job between two checkpoints: the setting, or else a twentieth of the budget."""
    return settings.checkpoint_every_samples or max(1, budget_samples // 20)


def samples_of_others(job_samples: int, own_done_samples: int) -> int:
    """Samples that other peers have trained: the job's done samples without this peer's. Never below 0."""
    return max(0, job_samples - own_done_samples)


def steered_rate(
    ramp: Ramp | None,
    settings: JobSettings,
    living: int,
    progress_samples: int,
    budget_samples: int,
    clip: GradientClip = UNKNOWN,
) -> tuple[Ramp, float]:
    """The factor of the schedule's learning rate while ``living`` peers train, and the ramp for the next call.

    A peer begins (``ramp`` None) with the schedule's own rate, which is factor 1. The factor rises to the scaling for
    so many peers within the warm-up's share of the budget, and rises again when more peers have joined, or when the
    job's ``clip`` becomes known.
    """
    length = settings.warmup * budget_samples
    begun = ramp if ramp is not None else Ramp(1.0, progress_samples, 1.0)
    turned = begun.turned(factor(scaling(settings, clip), living), progress_samples, length)
    return turned, turned.at(progress_samples, length)


class Progress:
    """The progress of the whole job, read from the ledger's done marks.

    ``samples``: the job's samples that are done. ``folded``: the number of epochs, from the first on, that are done.
    ``clip``: the job's limit of gradients.
    """

    def __init__(self, spec: JobSpec, epochs: Epochs) -> None:
        self._spec = spec
        self._epochs = epochs
        self.folded = 0
        self.samples = 0
        self._most_samples = 0
        self._ramp: Ramp | None = None
        self.clip = given(spec.settings)

    @property
    def finished(self) -> bool:
        """Whether every epoch of the budget is done."""
        return self.folded >= self._epochs.count

    @property
    def is_warm(self) -> bool:
        """Whether the job has left its warm-up, as far as this peer knows.

        True stays true: a store that loses done marks does not make the halves of honest partners long again.
        """
        return self._most_samples >= self._spec.settings.warmup * self._spec.budget_samples

    def outlook(self, living: int) -> Outlook:
        """The length of the job for each of so many peers, and how far it is."""
        spec, peers = self._spec, max(1, living)
        iterations = spec.budget_samples / (spec.samples_per_iteration * peers)
        return Outlook(iterations, self.samples / spec.budget_samples, peers)

    async def look(self, ledger: Ledger) -> None:
        """Read the progress from the ledger. Raises StoreError."""
        self.samples = await ledger.done_samples()
        self._most_samples = max(self._most_samples, self.samples)
        self.folded = ledger.folded

    def steer(self, board: WeightBoard, own_done_samples: int, living: int) -> None:
        """Tell the solver how many samples other peers have trained, the factor of its learning rate, and the clip.

        A lone peer has no clip: it trains as plain Caffe does.
        """
        others = samples_of_others(self.samples, own_done_samples)
        self._ramp, factor = steered_rate(
            self._ramp, self._spec.settings, living, self.samples, self._spec.budget_samples, self.clip
        )
        board.set_clip(self.clip.limit if living > 1 else 0.0)  # before the factor that needs it
        board.set_pace(others, factor)
