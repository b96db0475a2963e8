"""The figures of a peer at one moment, from which the values of its metrics are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Durations:
    """Counted durations: ``counts``, one for each bucket and one for all that is longer, and their sum in seconds."""

    counts: tuple[int, ...]
    sum_s: float


@dataclass(frozen=True, slots=True)
class TrainingFigures:
    """The figures of a peer that trains. None stands for a figure that is not known yet.

    ``samples`` and ``iterations`` are those of the live weights: they fall when a solver is started again from its
    newest snapshot. ``mass_error``: see OneSided. ``checkpoint_made_at``: wall seconds of the maker.
    ``device_used_bytes`` and ``device_size_bytes``: of the GPU's memory.
    """

    samples: int = 0
    iterations: int = 0
    samples_per_s: float = 0.0
    loss: float | None = None
    learning_rate: float = 0.0
    steps: Durations | None = None
    stalled_s: float = 0.0
    round_wait_s: float = 0.0
    records_skipped: int = 0
    solver_restarts: int = 0
    half_applied: int = 0
    mass_error: float = 0.0
    distance: float | None = None
    progress_samples: int = 0
    finished_epochs: int = 0
    test_score: float | None = None
    shard_records: int = 0
    chunks_owned: int = 0
    chunks_done: int = 0
    checkpoint_made_at: float | None = None
    checkpoint_samples: int | None = None
    checkpoint_interval_samples: int = 0
    device_used_bytes: int | None = None
    device_size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a peer at one moment.

    * ``state``: one of ``table.STATES``. ``members``: state → the number of peers in it, as this peer sees the job.
    * ``store_up`` and ``lease_margin_s``: None while the peer has no lease.
    * ``certificate_ends_at``: wall seconds; None: the peer has no certificate.
    * ``training``: None before the peer has weights.
    """

    job: str
    version: str
    device: str
    state: str
    budget_samples: int
    members: Mapping[str, int] = field(default_factory=dict)
    store_up: bool | None = None
    lease_margin_s: float | None = None
    certificate_ends_at: float | None = None
    training: TrainingFigures | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the peer trains."""
        return self.state == "training"
