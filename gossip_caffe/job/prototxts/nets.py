"""The layers of a net in one phase, and those among them that bring the data.

Follows Caffe's Net::FilterNet and Net::StateMeetsRule.
"""

from __future__ import annotations

from dataclasses import dataclass

from gossip_caffe.job.prototxts.prototxt import Document, Field, TextMessage

SOURCE_TYPES = frozenset(
    {"Data", "AnnotatedData", "HDF5Data", "ImageData", "MemoryData", "WindowData", "DummyData", "Input"}
)
MAKING_TYPES = frozenset({"DummyData", "Python"})
"""Layer types that generate their tops themselves. Such data cannot be shared out among peers."""

_PHASES = {"0": "TRAIN", "1": "TEST"}


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a net: its message, and the field of the net that holds it."""

    place: Field
    fields: TextMessage

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.fields.text("name")

    @property
    def type(self) -> str:
        """The layer's type."""
        return self.fields.text("type")

    @property
    def tops(self) -> list[str]:
        """The names of the layer's tops."""
        return self.fields.texts("top")


def layers_of(net: TextMessage) -> list[Layer]:
    """All layers of a net, in order. The net must be in today's format (see ``legacy.upgraded``)."""
    return [Layer(place, net.document.message_of(place)) for place in net.all("layer")]


@dataclass(frozen=True, slots=True)
class NetState:
    """The state that a net's include and exclude rules are compared with."""

    phase: str
    level: int = 0
    stages: frozenset[str] = frozenset()

    def merged(self, state: TextMessage | None) -> NetState:
        """This state with the additions of a ``state`` message of the net or the solver, as Caffe merges them."""
        if state is None:
            return self
        stages = self.stages.union(state.texts("stage"))
        phase = _PHASES.get(state.text("phase"), state.text("phase")) or self.phase
        return NetState(phase, state.integer("level", self.level), stages)


def included(layer: TextMessage, state: NetState) -> bool:
    """True if a layer is part of the net in that state."""
    includes, excludes = layer.messages("include"), layer.messages("exclude")
    if includes:
        return any(_meets(rule, state) for rule in includes)
    return not any(_meets(rule, state) for rule in excludes)


def _meets(rule: TextMessage, state: NetState) -> bool:
    phase = _PHASES.get(rule.text("phase"), rule.text("phase"))
    if phase not in {"", state.phase}:
        return False
    if rule.last("min_level") is not None and state.level < rule.integer("min_level"):
        return False
    if rule.last("max_level") is not None and state.level > rule.integer("max_level"):
        return False
    return state.stages.issuperset(rule.texts("stage")) and state.stages.isdisjoint(rule.texts("not_stage"))


def present(net: TextMessage, state: NetState) -> list[Layer]:
    """The layers that are part of the net in that state, in order."""
    return [layer for layer in layers_of(net) if included(layer.fields, state)]


def brings_data(layer: Layer) -> bool:
    """True if a layer's tops come from outside the net."""
    if layer.type == "Parameter":  # its top is a learned blob
        return False
    return layer.type in SOURCE_TYPES or not layer.fields.all("bottom")


def source_layers(document: Document, net: TextMessage, state: NetState) -> list[Layer]:
    """The layers that bring data from outside the net, in order; empty when the net generates its own data.

    Raises ModelError when no layer brings data.
    """
    chosen = present(net, state)
    if not any(brings_data(layer) for layer in chosen):
        layers = layers_of(net)
        at = layers[0].place.start if layers else 0
        raise document.error(at, f"the {state.phase} phase has no data layer", 'add a layer of type "Data"')
    return [layer for layer in chosen if brings_data(layer) and layer.type not in MAKING_TYPES]
