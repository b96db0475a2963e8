"""A strategy whose changes of the weights are logged, so that the checker sees the real corrections."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.gossip.averaging.compiled import sum_of_squares
from gossip_caffe.observe.log.events import Event, EventLog
from gossip_caffe.peer.core.strategy import MakeStrategy, Strategy, StrategyContext
from gossip_caffe.solver.board import WeightBoard


class _RecordedBoard:
    """A board that logs every correction."""

    def __init__(self, board: WeightBoard, log: EventLog) -> None:
        self._board = board
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._board, name)

    def add_correction(self, delta: NDArray[np.float32]) -> None:
        own = np.empty(delta.size, dtype=np.float32)
        self._board.snapshot(own)
        self._board.add_correction(delta)
        wide = delta.astype(np.float64)
        self._log.emit(
            Event.CORRECTED,
            half_sum=float(wide.sum()),
            half_norm=math.sqrt(float(wide @ wide)),
            own_norm=math.sqrt(sum_of_squares(own)),
        )


def recorded(make: MakeStrategy) -> MakeStrategy:
    """The same strategy, with a board that logs every correction."""

    def made(around: StrategyContext) -> Strategy:
        board = cast(WeightBoard, _RecordedBoard(around.board, around.log))
        return make(dataclasses.replace(around, board=board))

    return made
