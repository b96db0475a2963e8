"""A cluster's status in the few figures that a progress bar shows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gossip_caffe.observe.tested import ConsensusTest


@dataclass(frozen=True, slots=True)
class Figures:
    """``loss`` is the mean over the peers that train, ``learning_rate`` the highest; None when there is none yet."""

    done_samples: int = 0
    samples_per_s: float = 0.0
    loss: float | None = None
    learning_rate: float | None = None
    peers: int = 0
    tested: ConsensusTest | None = None

    def seconds_left(self, budget_samples: int) -> float:
        """At the speed of now; infinite while nothing moves."""
        left = budget_samples - self.done_samples
        return left / self.samples_per_s if self.samples_per_s > 0 else math.inf

    def words(self) -> str:
        """All but the progress, in one line."""
        parts = [f"{self.samples_per_s:,.0f} samples/s"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        if self.learning_rate is not None:
            parts.append(f"rate {self.learning_rate:.3g}")
        if self.tested is not None and self.tested.headline:
            parts.append(self.tested.headline)
        return ", ".join(parts)


def figures_of(status: dict[str, Any], budget_samples: int) -> Figures:
    """The figures of a supervisor's status."""
    running = [peer["status"] for peer in status["peers"] if peer["running"] and peer.get("status")]
    training = [entry for entry in running if entry["state"] == "training" and entry["iteration"]]
    losses = [entry["loss"] for entry in training if entry["loss"] is not None]
    done = max((entry["progress_samples"] for entry in running), default=0)
    tested: ConsensusTest | None = None
    if status["tested"] is not None:
        try:
            tested = ConsensusTest.from_record(status["tested"])
        except ValueError:
            pass  # of a version that we cannot read
    return Figures(
        done_samples=budget_samples if status["finished"] is not None else min(done, budget_samples),
        samples_per_s=sum(entry["samples_per_s"] for entry in training),
        loss=sum(losses) / len(losses) if losses else None,
        learning_rate=max((entry["learning_rate"] for entry in training), default=None),
        peers=len(training),
        tested=tested,
    )
