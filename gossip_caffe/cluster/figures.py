"""The few figures of a cluster's status that a progress bar shows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gossip_caffe.observe.log.tested import ConsensusTest


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a cluster. ``loss``: the mean over the peers that train; ``learning_rate``: the highest.

    Both are None until a peer has trained. ``done_samples``: trained samples; ``peers``: peers that train;
    ``tested``: the newest test of the consensus. ``samples_per_s``: of the last seconds; ``steady_samples_per_s``: of
    the last minutes. ``begun_samples``: samples of the iterations under way, by the time that these have taken;
    ``done_samples`` lacks them. ``tests_ahead_s``: the seconds for which a lone peer will yet hold for tests.
    ``waits_for``: the things that peers wait for, "" for nothing.
    """

    done_samples: int = 0
    samples_per_s: float = 0.0
    loss: float | None = None
    learning_rate: float | None = None
    peers: int = 0
    tested: ConsensusTest | None = None
    steady_samples_per_s: float = 0.0
    begun_samples: float = 0.0
    tests_ahead_s: float = 0.0
    waits_for: str = ""

    def seconds_left(self, budget_samples: int) -> float:
        """Return the seconds until the budget is trained and tested; infinite while the speed is unknown."""
        if self.done_samples >= budget_samples:
            return self.tests_ahead_s
        if self.steady_samples_per_s <= 0:
            return math.inf
        left = budget_samples - self.done_samples - self.begun_samples
        return max(0.0, left / self.steady_samples_per_s) + self.tests_ahead_s

    def seconds_of(self, samples: int) -> float:
        """Return the seconds that one peer needs for ``samples`` samples; 0 while the speed is unknown."""
        return samples * self.peers / self.samples_per_s if self.samples_per_s > 0 else 0.0

    def words(self) -> str:
        """Return all figures except the progress, as one line."""
        parts = [f"{self.samples_per_s:,.0f} samples/s"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        if self.learning_rate is not None:
            parts.append(f"rate {self.learning_rate:.3g}")
        if self.tested is not None and self.tested.headline:
            parts.append(self.tested.headline)
        if self.waits_for:
            parts.append(f"waits for {self.waits_for}")
        return ", ".join(parts)


def figures_of(status: dict[str, Any], budget_samples: int) -> Figures:
    """Compute the figures from a supervisor's status."""
    running = [peer["status"] for peer in status["peers"] if peer["running"] and peer.get("status")]
    training = [entry for entry in running if entry["state"] == "training" and entry["iteration"]]
    losses = [entry["loss"] for entry in training if entry["loss"] is not None]
    # The ledger lags behind: a lone peer settles chunks only at checkpoints. But it includes peers that have left.
    done = max(
        max((max(entry["progress_samples"], entry["job_samples"]) for entry in running), default=0),
        sum(entry["samples"] for entry in running),
    )
    tested: ConsensusTest | None = None
    if status["tested"] is not None:
        try:
            tested = ConsensusTest.from_record(status["tested"])
        except ValueError:
            pass  # a record of another version
    return Figures(
        done_samples=budget_samples if status["finished"] is not None else min(done, budget_samples),
        samples_per_s=sum(entry["samples_per_s"] for entry in training),
        loss=sum(losses) / len(losses) if losses else None,
        learning_rate=max((entry["learning_rate"] for entry in training), default=None),
        peers=len(training),
        tested=tested,
        steady_samples_per_s=sum(entry["steady_samples_per_s"] for entry in training),
        begun_samples=sum(entry["begun_samples"] for entry in training),
        tests_ahead_s=max((entry["tests_ahead_s"] for entry in running), default=0.0),
        waits_for=", ".join(sorted({entry["waits_for"] for entry in running} - {""})),
    )
