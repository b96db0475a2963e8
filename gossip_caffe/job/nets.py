"""What a net's text says about a phase: which layers are in it, and which of them bring the data.

Follows Caffe's Net::FilterNet and Net::StateMeetsRule.
"""

from __future__ import annotations

from dataclasses import dataclass

from gossip_caffe.job.prototxt import Document, Field, Message

SOURCE_TYPES = frozenset(
    {"Data", "AnnotatedData", "HDF5Data", "ImageData", "MemoryData", "WindowData", "DummyData", "Input"}
)
MAKING_TYPES = frozenset({"DummyData", "Python"})
"""Layers that make their tops up by themselves: what they make cannot be shared out."""

_PHASES = {"0": "TRAIN", "1": "TEST"}


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a net: its fields, and the field that it is in its net."""

    place: Field
    fields: Message

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
        """Names of its outputs."""
        return self.fields.texts("top")


def layers_of(net: Message) -> list[Layer]:
    """All layers of a net, in order; ``legacy.upgraded`` has brought it to the format of today."""
    return [Layer(place, net.document.message_of(place)) for place in net.all("layer")]


@dataclass(frozen=True, slots=True)
class NetState:
    """What a net's include and exclude rules are held against."""

    phase: str
    level: int = 0
    stages: frozenset[str] = frozenset()

    def merged(self, state: Message | None) -> NetState:
        """Return this state with what a ``state`` message of the net or of the solver adds, as Caffe does."""
        if state is None:
            return self
        stages = self.stages.union(state.texts("stage"))
        phase = _PHASES.get(state.text("phase"), state.text("phase")) or self.phase
        return NetState(phase, state.integer("level", self.level), stages)


def included(layer: Message, state: NetState) -> bool:
    """Tell whether a layer is in the net of that state."""
    includes, excludes = layer.messages("include"), layer.messages("exclude")
    if includes:
        return any(_meets(rule, state) for rule in includes)
    return not any(_meets(rule, state) for rule in excludes)


def _meets(rule: Message, state: NetState) -> bool:
    phase = _PHASES.get(rule.text("phase"), rule.text("phase"))
    if phase not in {"", state.phase}:
        return False
    if rule.last("min_level") is not None and state.level < rule.integer("min_level"):
        return False
    if rule.last("max_level") is not None and state.level > rule.integer("max_level"):
        return False
    return state.stages.issuperset(rule.texts("stage")) and state.stages.isdisjoint(rule.texts("not_stage"))


def present(net: Message, state: NetState) -> list[Layer]:
    """The layers that are in the net of that state, in order."""
    return [layer for layer in layers_of(net) if included(layer.fields, state)]


def brings_data(layer: Layer) -> bool:
    """Tell whether a layer makes its tops from something outside of the net."""
    if layer.type == "Parameter":  # a blob that is learned
        return False
    return layer.type in SOURCE_TYPES or not layer.fields.all("bottom")


def source_layers(document: Document, net: Message, state: NetState) -> list[Layer]:
    """Find the layers that bring data from outside of the net, in order; none when the net makes its own.

    Raises ModelError when nothing brings any.
    """
    chosen = present(net, state)
    if not any(brings_data(layer) for layer in chosen):
        layers = layers_of(net)
        at = layers[0].place.start if layers else 0
        raise document.error(at, f"the {state.phase} phase has no data layer", 'add a layer of type "Data"')
    return [layer for layer in chosen if brings_data(layer) and layer.type not in MAKING_TYPES]
