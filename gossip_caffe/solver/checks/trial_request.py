"""The request of a trial: the texts that Caffe reads and the nets that it builds; see ``trial``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from gossip_caffe.job.prototxts.prototxt import edited
from gossip_caffe.job.spec.spec import TopSpec


@dataclass(frozen=True, slots=True)
class Text:
    """One of the user's texts; ``kind``: its message type in Caffe, for example "NetParameter"."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One net to build: a solver whose source layers read the ring, or a net in the TEST phase.

    ``layers``: the place of each layer in the text, [start, end). ``weights``: .caffemodel files that are then loaded;
    ``state``: a .solverstate file that is then restored; "": none.
    """

    text: str
    layers: tuple[tuple[int, int], ...]
    is_solver: bool
    level: int = 0
    stages: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    state: str = ""

    def with_layers(self, count: int) -> Attempt:
        """Return the attempt with only its first ``count`` layers."""
        cut = [(start, end, "") for start, end in self.layers[count:]]
        return dataclasses.replace(self, text=edited(self.text, cut), layers=self.layers[:count])


@dataclass(frozen=True, slots=True)
class Trial:
    """The texts to read and the attempts to make, in order, until one fails.

    ``tops``, ``batch_records``: the shape of the ring that the source layers read.
    """

    texts: tuple[Text, ...]
    attempts: tuple[Attempt, ...]
    tops: tuple[TopSpec, ...]
    batch_records: int
