"""What a test of the consensus gave: the means that Caffe prints as "Test net output", and a line for people."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from gossip_caffe.stored import checked, read_object

MAX_VALUES = 64
"""So many values of one output are written down; its others count in ``values`` only."""


@dataclass(frozen=True, slots=True)
class Output:
    """One output blob of a test net, each value averaged over the passes.

    ``values``: how many values the blob has; ``means``: the first MAX_VALUES of them, None for one that is not
    finite. ``loss_weight``: 0 for what is no loss.
    """

    name: str
    means: tuple[float | None, ...]
    values: int = 1
    loss_weight: float = 0.0
    net: int = 0

    @property
    def scalar(self) -> float | None:
        """The mean of an output of one value; None for all others."""
        return self.means[0] if self.values == 1 else None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read what ``asdict`` made. Raises KeyError, TypeError or ValueError when it is none."""
        return checked(cls(**{**record, "means": tuple(record["means"])}))

    def words(self) -> str:
        """It in words, as Caffe says it: "loss = 0.31 (* 1 = 0.31 loss)"."""
        shown = ", ".join("nan" if mean is None else f"{mean:.6g}" for mean in self.means[:3])
        more = f", … ({self.values} values)" if self.values > len(self.means[:3]) else ""
        mean = self.scalar
        if not self.loss_weight or mean is None:
            return f"{self.name} = {shown}{more}"
        return f"{self.name} = {shown} (* {self.loss_weight:g} = {self.loss_weight * mean:.6g} loss)"


@dataclass(frozen=True, slots=True)
class ConsensusTest:
    """The newest test of a job: of the consensus after ``progress_samples``, in iterations of the whole job too."""

    progress_samples: int
    iteration: int
    outputs: tuple[Output, ...]
    peer: str = ""
    seconds: float = 0.0

    def words(self) -> str:
        """All outputs in one line; those of a second net with its number."""
        return ", ".join(
            f"net #{output.net} {output.words()}" if output.net else output.words() for output in self.outputs
        )

    @property
    def headline(self) -> str:
        """The output that people look at: the first that is one value and no loss, else the first."""
        first = self._first
        return f"{first.name} {first.scalar:.4g}" if first is not None else ""

    @property
    def score(self) -> float | None:
        """That output as a figure of which more is better: an accuracy, or what a loss is below 0."""
        if (first := self._first) is None or first.scalar is None:
            return None
        return -first.scalar if first.loss_weight else first.scalar

    @property
    def _first(self) -> Output | None:
        scalars = [output for output in self.outputs if output.scalar is not None]
        chosen = next((output for output in scalars if not output.loss_weight), None)
        return chosen or next(iter(scalars), None)

    def to_record(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    def to_json(self) -> bytes:
        """The record as it stands in the store."""
        return json.dumps(self.to_record(), separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read ``to_record``. Raises ValueError when it is none."""
        try:
            outputs = tuple(map(Output.from_record, record["outputs"]))
            return checked(cls(**{**record, "outputs": outputs}))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the record of a test: {error}") from error

    @classmethod
    def from_json(cls, content: bytes) -> Self:
        """Read ``to_json``. Raises ValueError when it is none."""
        return cls.from_record(read_object(content))


def finite(value: float) -> float | None:
    """The value, or None for NaN and the infinities, which JSON cannot hold."""
    return value if math.isfinite(value) else None
