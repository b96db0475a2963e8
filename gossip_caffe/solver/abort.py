"""From what Caffe prints when it aborts to the one line that a user needs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_FATAL = re.compile(r"^F\d{4,8} [\d:.]+\s+\d+ (?P<file>[\w./-]+):(?P<line>\d+)\] (?P<text>.*)$")
_PROTO = re.compile(r"Error parsing text-format caffe\.(\w+): (\d+):(\d+): (.*)")
# What a Caffe that logs its progress says at INFO.
_AT_LAYER = re.compile(r"^I.*\] (?:Creating [Ll]ayer|Setting up) (?P<name>\S.*?)\s*$")
_BUILT = "Network initialization done."
_RAISED = re.compile(r"^[\w.]*(Error|Exception|Problem)\b")
# What follows an error that boost.python has printed already.
_EMPTY = "returned NULL without setting an exception"
# "Check failed: a == b (1 vs. 2) sentence" says enough with its sentence.
_CHECK = re.compile(r"^Check failed: (?P<condition>.*? \(\S+ vs\. \S+\)|\S+\([^)]*\)) *(?P<sentence>.*)$")
_KNOWN_TYPES = re.compile(r" \(known types: [^)]*\)")

_REMEDIES = (
    (
        "Unknown layer type",
        "use a layer type that this Caffe has: 'gossip-caffe doctor' says which Caffe it is",
    ),
    ("Unknown solver type", "use SGD, Nesterov, AdaGrad, RMSProp, AdaDelta or Adam"),
    ("MDB_", "check that the data layer's source is an LMDB"),
    ("mdb_status", "check that the data layer's source is an LMDB"),
    ("Failed to parse", "correct the prototxt at that line"),
    ("Duplicate blobs", "give every top a name of its own"),
    ("Unknown bottom blob", "check the names of the bottoms against the tops before them"),
    ("shape", "check the layer's sizes against its inputs"),
    ("Momentum cannot be used", "set momentum: 0 for this solver type"),
    ("CPU-only", "use a pycaffe that was built with CUDA ('make setup CUDA=1'), or train on the CPU"),
    ("CUDA driver version", "install a newer driver for the card, or train on the CPU"),
    ("CUDA-capable device", "see whether 'nvidia-smi' shows a card, or train on the CPU"),
    ("invalid device ordinal", "give the number of a card that 'gossip-caffe doctor' shows"),
    ("no kernel image", "build pycaffe for this card's architecture: docs/gpu.md"),
    ("cannot open lib", "see docs/gpu.md"),
    ("out of memory", "train with a smaller batch_size"),
)

_NOT_FOUND = "put the folder of the net's Python layers into PYTHONPATH wherever a peer runs"


@dataclass(frozen=True, slots=True)
class Abort:
    """Why a process that ran Caffe ended. ``layer``: the one that was refused, "" when Caffe does not say.

    ``refused``: whether Caffe ended it, and not an exception.
    """

    layer: str
    reason: str
    remedy: str
    refused: bool


def abort_of(stderr: Sequence[str]) -> Abort | None:
    """The reason among the last lines that a process printed; None when they hold none."""
    parse_error = layer = ""
    for line in stderr:
        if match := _AT_LAYER.match(line):
            layer = match["name"]
        elif _BUILT in line:
            layer = ""
        if match := _PROTO.search(line):
            parse_error = f"line {match[2]}, column {match[3]} of the {match[1]}: {match[4]}"
        if match := _FATAL.match(line):
            text = " ".join(match["text"].split())
            remedy = next(
                (remedy for sign, remedy in _REMEDIES if sign in text), "correct the net or the solver"
            )
            reason = parse_error or f"{_reason(text)} ({match['file']}:{match['line']})"
            return Abort(layer, reason, remedy, refused=True)
    for line in reversed(stderr):
        if _RAISED.match(line) and _EMPTY not in line:
            remedy = _NOT_FOUND if line.startswith("ModuleNotFoundError") else ""
            return Abort("", line.strip(), remedy, refused=False)
    return None


def abort_cause(stderr: Sequence[str]) -> tuple[str, str]:
    """(cause, remedy) from the last lines that a solver process printed; ("", "") when they hold no reason."""
    abort = abort_of(stderr)
    if abort is None:
        return "", ""
    if not abort.refused:
        return abort.reason, abort.remedy
    refused = f"layer {abort.layer!r}" if abort.layer else "the model"
    return f"Caffe refused {refused}: {abort.reason}", abort.remedy


def _reason(text: str) -> str:
    """What a fatal line says, without what only Caffe's authors need."""
    text = _KNOWN_TYPES.sub("", text)
    match = _CHECK.match(text)
    if match is None:
        return text.removeprefix("Check failed: ")
    if "mdb_status" in match["condition"]:
        return f"a data layer's LMDB cannot be read: {match['sentence']}"
    if not match["sentence"] or "shape" in match["condition"]:
        return " ".join(f"{match['condition']} {match['sentence']}".split())
    return match["sentence"]
