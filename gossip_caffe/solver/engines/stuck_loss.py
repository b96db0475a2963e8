"""Detection of a loss that stays where a diverged net's loss stays. Caffe trains on with it, and so do peers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gossip_caffe.solver.engines.engine import NetOutput

SATURATED = 87.3365
"""−ln(FLT_MIN): the loss of SoftmaxWithLoss for a record whose label has the probability 0 or NaN."""
WINDOW_ITERATIONS = 20
"""The number of saturated total losses in a row that counts as stuck."""
WINDOW_LOOKS = 3
"""A net may have several losses. Each is checked once in WINDOW_ITERATIONS; so many checks in a row decide."""
MOST_RECORDS = 2048
"""With more records a share of SATURATED says nothing: see ``is_saturated``."""
_AS_GOOD_AS = 2e-5
"""The relative tolerance: a loss is the sum of many float32 values."""


class StuckLoss:
    """Checks each iteration's loss, and reports once that it stays where a diverged net's loss stays.

    A diverged net gives every label the probability 0 or 1: with n records the loss is k/n of SATURATED, k > 0.
    """

    def __init__(self) -> None:
        self._iterations = 0
        self._run = 0
        self._runs: dict[str, int] = {}
        self._said = False

    def note(self, loss: float, records: int, outputs: Callable[[], Sequence[NetOutput]]) -> str:
        """Note the loss of one more iteration with ``records`` records. Returns a warning, once; else "".

        ``outputs``: returns the outputs of the last pass; it is called once in WINDOW_ITERATIONS.
        """
        if self._said:
            return ""
        self._iterations += 1
        self._run = self._run + 1 if is_saturated(loss, records) else 0
        stuck = [loss] if self._run >= WINDOW_ITERATIONS else []
        if not stuck and self._iterations % WINDOW_ITERATIONS == 0:
            stuck = self._look(outputs(), records)
        if not stuck:
            return ""
        self._said = True
        found = stuck[0]
        where = f"{SATURATED:.2f}"
        if abs(found - SATURATED) > _AS_GOOD_AS * SATURATED:
            where += f" times the share of wrong records ({found:.2f} now)"
        return f"loss stays at {where}: it has diverged; lower base_lr or scale the data"

    def _look(self, outputs: Sequence[NetOutput], records: int) -> list[float]:
        """Return the losses that were saturated in WINDOW_LOOKS checks in a row."""
        seen = {
            output.name: float(output.values[0])
            for output in outputs
            if output.loss_weight
            and len(output.values) == 1
            and is_saturated(float(output.values[0]), records)
        }
        self._runs = {name: self._runs.get(name, 0) + 1 for name in seen}
        return [value for name, value in seen.items() if self._runs[name] >= WINDOW_LOOKS]


def is_saturated(loss: float, records: int) -> bool:
    """True if the loss is the mean of ``records`` losses that are each 0 or SATURATED, and not all 0."""
    share = loss / SATURATED
    wrong = round(share * records)
    if not 0 < wrong <= records:
        return False
    # With very many records every number is near a multiple of 1/n: then only the share 1 is evidence.
    return abs(share - wrong / records) <= _AS_GOOD_AS * share and (
        wrong == records or records <= MOST_RECORDS
    )
