"""A strategy whose every change of the weights is written down, so that a checker sees what was really added."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.observe.events import Event, EventLog
from gossip_caffe.peer.strategy import MakeStrategy, Strategy, Surroundings
from gossip_caffe.solver.board import WeightBoard


class _Watched:
    """A board that says what is added to it."""

    def __init__(self, board: WeightBoard, log: EventLog) -> None:
        self._board = board
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._board, name)

    def add_correction(self, delta: NDArray[np.float32]) -> None:
        self._board.add_correction(delta)
        wide = delta.astype(np.float64)
        self._log.emit(Event.CORRECTED, half_sum=float(wide.sum()), half_norm=math.sqrt(float(wide @ wide)))


def watched(make: MakeStrategy) -> MakeStrategy:
    """The same strategy, watched."""

    def made(around: Surroundings) -> Strategy:
        board = cast(WeightBoard, _Watched(around.board, around.log))
        return make(dataclasses.replace(around, board=board))

    return made
