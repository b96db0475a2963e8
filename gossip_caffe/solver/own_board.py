"""The board that a solver has once its net is built: a new one, or that of the dead solver whose place it takes."""

from __future__ import annotations

from gossip_caffe.errors import SolverDied
from gossip_caffe.solver.board import WeightBoard
from gossip_caffe.solver.layout import WeightLayout


class OwnBoard:
    """Holds it."""

    def __init__(self, board: WeightBoard | None) -> None:
        self._board = board

    @property
    def built(self) -> bool:
        """Whether there is a board."""
        return self._board is not None

    @property
    def board(self) -> WeightBoard:
        """The solver's weights, as the agent sees them. Raises SolverDied before the net is built."""
        if self._board is None:
            raise SolverDied("the solver was not built", remedy="report this defect")
        return self._board

    def _fit_board(self, layout: WeightLayout) -> None:
        """The net is built. Raises SolverDied when the board at hand is of another size."""
        if self._board is None:
            self._board = WeightBoard.create(layout.size, layout.exchanged)
        elif self._board.size != layout.size:
            raise SolverDied(
                f"the solver came back with {layout.size} weights where there were {self._board.size}",
                remedy="report this defect",
            )
