"""The fields of prototxts by path, and the edits that give them other values. All other text stays byte for byte."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gossip_caffe.errors import ModelError
from gossip_caffe.job.prototxts.nets import NetState, included
from gossip_caffe.job.prototxts.prototxt import Document, Field, Scalar, TextMessage
from gossip_caffe.job.prototxts.rewriting import quoted as in_quotes
from gossip_caffe.tune.study.parameters import Value

Edit = tuple[int, int, str]
_TRAIN = NetState("TRAIN")
_LAYERS = ("layer", "layers")


class NoSuchField(ModelError):
    """A path leads to no field, or to several."""


@dataclass(frozen=True, slots=True)
class NetText:
    """A net within a text: a document of its own, or a message of the solver's (``net_param``)."""

    document: Document
    message: TextMessage


def solver_edit(solver: Document, steps: Sequence[str], value: Value) -> Edit:
    """The edit that gives a solver's field a value; a field that is missing is added at the end.

    Raises NoSuchField where the field stands several times, or where it is no single value.
    """
    return _edit(solver, solver.root, None, steps, value)


def net_edit(net: NetText, path: str, value: Value) -> Edit | None:
    """The edit that gives a layer's field a value; None if the net has no such layer in its TRAIN phase.

    ``path``: "LAYER.FIELD". FIELD is a path within the layer, or a name that stands once in it. The name of a layer
    may contain dots. Raises NoSuchField.
    """
    layer, steps = _layer_of(net, path)
    if layer is None:
        return None
    message = net.document.message_of(layer)
    if len(steps) == 1 and message.last(steps[0]) is None:
        places = list(_named(message, steps[0]))
        if not places:
            raise NoSuchField(
                f"layer {message.text('name')!r} has no field {steps[0]!r}",
                remedy=f"write its whole path, as net.{message.text('name')}.convolution_param.{steps[0]}",
            )
        if len(places) > 1:
            raise NoSuchField(
                f"field {steps[0]!r} stands {len(places)} times in layer {message.text('name')!r}",
                remedy="write its whole path",
            )
        return _replaced(net.document, places[0], value)
    return _edit(net.document, message, layer, steps, value)


def layer_names(net: NetText) -> list[str]:
    """The names of a net's layers, each once, in their order."""
    names = (
        net.document.message_of(entry).text("name") for kind in _LAYERS for entry in net.message.all(kind)
    )
    return list(dict.fromkeys(names))


def _layer_of(net: NetText, path: str) -> tuple[Field | None, list[str]]:
    """The layer that a path begins with, and the rest of the path. Raises NoSuchField when several layers fit."""
    entries = [(entry, net.document.message_of(entry)) for kind in _LAYERS for entry in net.message.all(kind)]
    names = [message.text("name") for _, message in entries if path.startswith(f"{message.text('name')}.")]
    if not names:
        return None, []
    name = max(names, key=len)
    found = [(entry, message) for entry, message in entries if message.text("name") == name]
    if len(found) > 1:
        found = [(entry, message) for entry, message in found if included(message, _TRAIN)]
    if len(found) > 1:
        raise NoSuchField(f"{len(found)} layers are named {name!r}", remedy="give each a name of its own")
    steps = path[len(name) + 1 :].split(".")
    return (found[0][0] if found else None), steps


def _named(message: TextMessage, name: str) -> Iterator[Field]:
    """The single values of that name at any depth."""
    for entry in message.fields:
        if isinstance(entry.value, TextMessage):
            yield from _named(entry.value, name)
        elif entry.name == name:
            yield entry


def _edit(
    document: Document, message: TextMessage, place: Field | None, steps: Sequence[str], value: Value
) -> Edit:
    """The edit within a message, which is the value of the field ``place``; None: the whole document."""
    name, rest = steps[0], steps[1:]
    if not name.isidentifier():
        raise NoSuchField(f"{name!r} is no name of a field", remedy="check the path")
    found = message.all(name)
    if len(found) > 1:
        raise NoSuchField(
            f"field {name!r} stands {len(found)} times", remedy="a study can set a field that stands once"
        )
    if not found:
        return _added(document, message, place, steps, value)
    if rest:
        if isinstance(found[0].value, Scalar):
            raise NoSuchField(f"field {name!r} has no fields of its own", remedy="check the path")
        return _edit(document, document.message_of(found[0]), found[0], rest, value)
    if not isinstance(found[0].value, Scalar):
        raise NoSuchField(f"field {name!r} is no single value", remedy=f"go on with {name}.FIELD")
    return _replaced(document, found[0], value)


def _replaced(document: Document, entry: Field, value: Value) -> Edit:
    scalar = document.scalar_of(entry)
    written = _as_written(value, quoted=scalar.kind == "string")
    return scalar.tokens[0].start, scalar.tokens[-1].end, written


def _added(
    document: Document, message: TextMessage, place: Field | None, steps: Sequence[str], value: Value
) -> Edit:
    """The edit that adds a field after the last one of a message."""
    looks_like_enum = isinstance(value, str) and value.isupper() and value.isidentifier()
    text = f"{steps[-1]}: {_as_written(value, quoted=not looks_like_enum)}"
    for name in reversed(steps[:-1]):
        text = f"{name} {{ {text} }}"
    if place is None:
        end = len(document.text)
        return end, end, ("" if document.text.endswith("\n") or not document.text else "\n") + text + "\n"
    if message.fields:
        at = max(entry.end for entry in message.fields)
        return at, at, f" {text}"
    opening = next(
        token for token in document.tokens if token.start >= place.start and token.text in {"{", "<"}
    )
    return opening.end, opening.end, f" {text} "


def _as_written(value: Value, *, quoted: bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.9g}"  # Caffe's floats have 9 digits at most
    return in_quotes(value) if quoted else value
