"""Where the whole job is, as this peer knows it, and what follows for its solver."""

from __future__ import annotations

from gossip_caffe.job.learning_rate import Ramp
from gossip_caffe.job.spec import JobSpec
from gossip_caffe.membership.load import asks_after_s
from gossip_caffe.peer.pace import samples_of_others, steered_rate
from gossip_caffe.shards.epochs import Epochs
from gossip_caffe.shards.ledger import Ledger
from gossip_caffe.solver.board import WeightBoard

LOOK_EVERY_S = 0.5


def look_after_s(living: int) -> float:
    """How long a peer waits between two looks at what the whole job has come to."""
    return asks_after_s(LOOK_EVERY_S, living)


class Progress:
    """Samples that the job has trained, read by counting done marks."""

    def __init__(self, spec: JobSpec, epochs: Epochs) -> None:
        self._spec = spec
        self._epochs = epochs
        self.folded = 0
        self.samples = 0
        self._ramp: Ramp | None = None

    @property
    def finished(self) -> bool:
        """Every epoch of the budget is done."""
        return self.folded >= self._epochs.count

    async def look(self, ledger: Ledger) -> None:
        """Read it anew. Raises StoreError."""
        self.samples = await ledger.done_samples()
        self.folded = ledger.folded

    def steer(self, board: WeightBoard, own_done_samples: int, living: int) -> None:
        """Tell the solver where the job is and how fast to learn."""
        others = samples_of_others(self.samples, own_done_samples)
        self._ramp, factor = steered_rate(
            self._ramp, self._spec.settings, living, self.samples, self._spec.budget_samples
        )
        board.set_pace(others, factor)
