"""The gate of one peer's solver: after how many iterations it waits for a round, and when its peer is ready for one."""

from __future__ import annotations

from gossip_caffe.solver.board import WeightBoard

SHORTEST_LOOK_S = 0.001
LONGEST_LOOK_S = 0.05
STARVED_S = 2.0
"""A peer whose solver has had no batch for so long takes part with the weights that it has."""


class RoundGate:
    """The gate. ``every``: the iterations of a round; ``started``: False while the first step waits for other peers."""

    def __init__(self, board: WeightBoard, every: int, *, started: bool) -> None:
        self.started = started
        self._board = board
        self._every = every
        self._from = board.iteration
        self._stalled_from = board.iteration, board.stalled_s

    def close(self) -> None:
        """Let the solver wait when it has made its iterations since the last round."""
        self._board.set_gate(self._from + (self._every if self.started else 0))

    def begin_round_from(self, iteration: int) -> None:
        """Count the iterations of the next round from this one on."""
        self._from = iteration

    def open(self) -> None:
        """Let the solver go on without rounds, unless the first step still waits for other peers."""
        self._from = self._board.iteration
        self._board.set_gate(None if self.started else self._from)

    def remove(self) -> None:
        """Let the solver go on without rounds."""
        self._board.set_gate(None)

    def until_ready_s(self) -> float:
        """Seconds until the next look at whether the solver waits for a round, or for a batch; 0: it does now."""
        board = self._board
        if board.at_gate:
            return 0.0
        iteration, stalled_s = self._stalled_from
        if board.iteration != iteration:
            self._stalled_from = board.iteration, board.stalled_s
        elif board.stalled_s - stalled_s > STARVED_S:
            return 0.0
        left = self._from + self._every - board.iteration
        return min(LONGEST_LOOK_S, max(SHORTEST_LOOK_S, 0.5 * left * board.step_s))
