"""What a trial asks Caffe to build; see ``trial``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from gossip_caffe.job.prototxt import edited
from gossip_caffe.job.spec import TopSpec


@dataclass(frozen=True, slots=True)
class Text:
    """One of the user's texts; ``kind``: the message of Caffe's that it should be."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One thing to build: a solver whose source layers read the ring, or else a net in the TEST phase.

    ``layers``: where those that are built stand in the text, [start, end) each. ``weights``: files that are then
    copied in; ``state``: a solver's state that is then restored.
    """

    text: str
    layers: tuple[tuple[int, int], ...]
    is_solver: bool
    level: int = 0
    stages: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    state: str = ""

    def with_layers(self, count: int) -> Attempt:
        """The same with only the first ``count`` of its layers."""
        cut = [(start, end, "") for start, end in self.layers[count:]]
        return dataclasses.replace(self, text=edited(self.text, cut), layers=self.layers[:count])


@dataclass(frozen=True, slots=True)
class Trial:
    """Texts that are read and attempts that are made, in order, until one fails."""

    texts: tuple[Text, ...]
    attempts: tuple[Attempt, ...]
    tops: tuple[TopSpec, ...]
    batch_records: int
