"""The result of a test of the consensus: the means that Caffe prints as "Test net output", and a line of text."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from gossip_caffe.json_records import checked, read_object

MAX_VALUES = 64
"""The number of values of one output that are stored. ``values`` counts the others, too."""


TEST_LOSS = "Test loss"
"""The output's name for the whole loss of a test net, which Caffe prints when test_compute_loss is set."""


@dataclass(frozen=True, slots=True)
class Output:
    """One output blob of a test net, each value averaged over the passes.

    ``values``: the number of the blob's values. ``means``: the first MAX_VALUES of them, None for a value that is not
    finite. ``loss_weight``: 0 for an output that is no loss.
    """

    name: str
    means: tuple[float | None, ...]
    values: int = 1
    loss_weight: float = 0.0
    net: int = 0

    @property
    def scalar(self) -> float | None:
        """The mean of an output with one value; None for all others."""
        return self.means[0] if self.values == 1 else None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Parse the result of ``asdict``. Raises KeyError, TypeError or ValueError for any other record."""
        return checked(cls(**{**record, "means": tuple(record["means"])}))

    def words(self) -> str:
        """The output as text, in Caffe's form: "loss = 0.31 (* 1 = 0.31 loss)"."""
        shown = ", ".join("nan" if mean is None else f"{mean:.6g}" for mean in self.means[:3])
        if self.name == TEST_LOSS:
            return f"{TEST_LOSS}: {shown}"
        more = f", … ({self.values} values)" if self.values > len(self.means[:3]) else ""
        mean = self.scalar
        if not self.loss_weight or mean is None:
            return f"{self.name} = {shown}{more}"
        return f"{self.name} = {shown} (* {self.loss_weight:g} = {_times(self.loss_weight, mean):.6g} loss)"


@dataclass(frozen=True, slots=True)
class ConsensusTest:
    """The newest test of a job: the consensus after ``progress_samples`` of the whole job, and that in iterations.

    ``mark``: the number of the test, counted from 1; 0 if an older version made it.
    """

    progress_samples: int
    iteration: int
    outputs: tuple[Output, ...]
    peer: str = ""
    seconds: float = 0.0
    mark: int = 0

    def words(self) -> str:
        """All outputs in one line; those of a second net with its number."""
        return ", ".join(
            f"net #{output.net} {output.words()}" if output.net else output.words() for output in self.outputs
        )

    @property
    def headline(self) -> str:
        """The main output: the first with one value that is no loss, else the first."""
        first = self._first
        return f"{first.name} {first.scalar:.4g}" if first is not None else ""

    @property
    def score(self) -> float | None:
        """The main output as a figure of which more is better: an accuracy, or a negated loss."""
        if (first := self._first) is None or first.scalar is None:
            return None
        return -first.scalar if first.loss_weight else first.scalar

    @property
    def _first(self) -> Output | None:
        scalars = [
            output for output in self.outputs if output.scalar is not None and output.name != TEST_LOSS
        ]
        chosen = next((output for output in scalars if not output.loss_weight), None)
        return chosen or next(iter(scalars), None)

    def to_record(self) -> dict[str, Any]:
        """The test as a JSON-compatible record."""
        return asdict(self)

    def to_json(self) -> bytes:
        """The test as it is stored."""
        return json.dumps(self.to_record(), separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Parse the result of ``to_record``. Raises ValueError for any other record."""
        try:
            outputs = tuple(map(Output.from_record, record["outputs"]))
            return checked(cls(**{**record, "outputs": outputs}))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the record of a test: {error}") from error

    @classmethod
    def from_json(cls, content: bytes) -> Self:
        """Parse the result of ``to_json``. Raises ValueError for any other value."""
        return cls.from_record(read_object(content))


def _times(weight: float, mean: float) -> float:
    """The product as Caffe computes it: in float32."""
    return _float32(_float32(weight) * _float32(mean))


def _float32(value: float) -> float:
    """The nearest float32."""
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def finite(value: float) -> float | None:
    """The value, or None for NaN and the infinities, which JSON cannot hold."""
    return value if math.isfinite(value) else None
