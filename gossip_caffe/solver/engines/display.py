"""The lines that Caffe prints every ``display`` iterations: the smoothed loss, the net's outputs, the learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gossip_caffe.solver.engines.engine import NetOutput


class SmoothedLoss:
    """The mean loss of the last ``size`` iterations, in float32, as Solver::UpdateSmoothedLoss in solver.cpp."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._losses: list[np.float32] = []
        self._count = 0
        self.value = np.float32(0)

    def add(self, loss: float) -> None:
        """Add the loss of one more iteration."""
        newest = np.float32(loss)
        if len(self._losses) < self._size:
            self._losses.append(newest)
            count = np.float32(len(self._losses))
            self.value = (self.value * (count - np.float32(1)) + newest) / count
        else:
            place = self._count % self._size
            self.value += (newest - self._losses[place]) / np.float32(self._size)
            self._losses[place] = newest
        self._count += 1


@dataclass(frozen=True, slots=True)
class Displayed:
    """The lines that are printed for one iteration; ``number``: the job's iteration divided by ``display``."""

    number: int
    lines: tuple[str, ...]


class Display:
    """Decides when lines are printed, and makes them.

    ``every``: the period in iterations of the job; 0: never. ``average_loss``: the size of the SmoothedLoss.
    """

    def __init__(self, every: int, average_loss: int) -> None:
        self._every = every
        self._smoothed = SmoothedLoss(average_loss)
        self._last = -1

    def due(self, iteration: int, loss: float) -> bool:
        """Add the loss of an iteration of the job. Returns True if it, or one since this peer's last, is displayed.

        With several peers the job makes other iterations between two of this peer.
        """
        self._smoothed.add(loss)
        return self._every > 0 and iteration // self._every > self._last

    def of(self, iteration: int, outputs: Sequence[NetOutput], rate: float) -> Displayed:
        """Return the lines that Caffe would print in Solver::Step and SGDSolver::ApplyUpdate."""
        self._last = iteration // self._every
        lines = [f"Iteration {iteration}, loss = {self._smoothed.value:.6g}"]
        values = [(output, value) for output in outputs for value in output.values]
        for number, (output, value) in enumerate(values):
            loss = ""
            if weight := np.float32(output.loss_weight):
                loss = f" (* {weight:.6g} = {weight * value:.6g} loss)"
            lines.append(f"    Train net output #{number}: {output.name} = {value:.6g}{loss}")
        lines.append(f"Iteration {iteration}, lr = {np.float32(rate):.6g}")
        return Displayed(self._last, tuple(lines))
