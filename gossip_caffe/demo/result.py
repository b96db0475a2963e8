"""The result of a demonstration: its figures, its failures and its last lines."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

MAX_GAP_POINTS = 1.0
"""The most points of test accuracy by which the consensus may end below the single solver."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The figures of one run.

    ``accuracy``: that of the last consensus checkpoint; ``accuracy_single``: that of one plain Caffe solver which
    trained as many samples; both on the test set, 0 to 1. A record counts once for each epoch: ``records_trained``
    records of the budget were trained, ``records_lost`` were not, ``records_twice`` were trained more than once, such
    as a killed peer's unshared work. ``peers_joined``: the peers that began to train after all of the first peers;
    ``peers_killed``: the peers that were killed.
    """

    accuracy: float
    accuracy_single: float
    records_trained: int
    records_lost: int
    records_twice: int
    peers_joined: int
    peers_killed: int
    finished: bool = True

    @property
    def gap_points(self) -> float:
        """The points of accuracy by which the consensus is below the single solver; negative when it is above."""
        return round(100 * (self.accuracy_single - self.accuracy), 6)

    def failures(self) -> list[str]:
        """Return the reasons why the demonstration failed, one line each; empty when it succeeded."""
        reasons = []
        if not self.finished:
            reasons.append("the job did not finish before its deadline")
        if self.records_lost:
            reasons.append(f"{self.records_lost:,} records were lost; no record may be")
        if self.gap_points > MAX_GAP_POINTS:
            reasons.append(
                f"the consensus is {self.gap_points:.2f} points below the single solver; "
                f"at most {MAX_GAP_POINTS:.1f} were expected"
            )
        if self.peers_joined < 1:
            reasons.append("no peer joined during the run; one should have")
        if self.peers_killed < 1:
            reasons.append("no peer was killed during the run; one should have been")
        return reasons

    def last_lines(self, picture: Path) -> list[str]:
        """Return the last lines of the output; the very last is ``RESULT`` and one JSON object."""
        return [
            f"consensus accuracy {self.accuracy:.2%} (single solver {self.accuracy_single:.2%}; "
            f"gap {round(self.gap_points, 2) + 0.0:+.2f} points)",  # + 0.0 turns -0.0 into 0.0
            f"records trained {self.records_trained:,}, lost {self.records_lost:,}, "
            f"trained twice {self.records_twice:,}",
            f"picture {picture}",
            result_line(self.figures()),
        ]

    def figures(self) -> dict[str, float | int]:
        """Return the figures of the RESULT line."""
        return {
            "accuracy": round(self.accuracy, 6),
            "accuracy_single": round(self.accuracy_single, 6),
            "records_trained": self.records_trained,
            "records_lost": self.records_lost,
            "records_twice": self.records_twice,
            "peers_joined": self.peers_joined,
            "peers_killed": self.peers_killed,
        }


def result_line(figures: dict[str, float | int]) -> str:
    """Return ``RESULT {json}`` as one line, for programs that read the output."""
    return f"RESULT {json.dumps(figures, allow_nan=False)}"
