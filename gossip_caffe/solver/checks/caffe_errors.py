"""The user's one-line error, made from the lines that Caffe prints when it aborts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_FATAL = re.compile(r"^F\d{4,8} [\d:.]+\s+\d+ (?P<file>[\w./-]+):(?P<line>\d+)\] (?P<text>.*)$")
_PROTO = re.compile(r"Error parsing text-format caffe\.(\w+): (\d+):(\d+): (.*)")
# The INFO lines of a Caffe that logs its progress.
_AT_LAYER = re.compile(r"^I.*\] (?:Creating [Ll]ayer|Setting up) (?P<name>\S.*?)\s*$")
_BUILT = "Network initialization done."
_RAISED = re.compile(r"^[\w.]*(Error|Exception|Problem)\b")
# The line after an error that boost.python has printed already.
_EMPTY = "returned NULL without setting an exception"
# In "Check failed: a == b (1 vs. 2) sentence" the sentence alone is clear enough.
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
    ("CUDA driver version", "install a newer driver for the GPU, or train on the CPU"),
    ("CUDA-capable device", "see whether 'nvidia-smi' shows a GPU, or train on the CPU"),
    ("invalid device ordinal", "give the number of a GPU that 'gossip-caffe doctor' shows"),
    ("no kernel image", "build pycaffe for this GPU's architecture: docs/gpu.md"),
    ("cannot open lib", "see docs/gpu.md"),
    ("out of memory", "train with a smaller batch_size"),
)

_NOT_FOUND = "put the folder of the net's Python layers into PYTHONPATH wherever a peer runs, or run it there"


@dataclass(frozen=True, slots=True)
class Abort:
    """The reason why a process that ran Caffe ended. ``layer``: the refused layer; "" when Caffe does not name it.

    ``refused``: True if Caffe ended the process; False if an exception did.
    """

    layer: str
    reason: str
    remedy: str
    refused: bool


def abort_of(stderr: Sequence[str]) -> Abort | None:
    """Find the reason in the last lines that a process printed on stderr; None when they contain no reason."""
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
    """Return (cause, remedy) from the last lines of a solver process; ("", "") when they contain no reason."""
    abort = abort_of(stderr)
    if abort is None:
        return "", ""
    if not abort.refused:
        return abort.reason, abort.remedy
    refused = f"layer {abort.layer!r}" if abort.layer else "the model"
    return f"Caffe refused {refused}: {abort.reason}", abort.remedy


def _reason(text: str) -> str:
    """Return the reason in a fatal line, without the parts for Caffe's developers."""
    text = _KNOWN_TYPES.sub("", text)
    match = _CHECK.match(text)
    if match is None:
        return text.removeprefix("Check failed: ")
    if "mdb_status" in match["condition"]:
        return f"a data layer's LMDB cannot be read: {match['sentence']}"
    if not match["sentence"] or "shape" in match["condition"]:
        return " ".join(f"{match['condition']} {match['sentence']}".split())
    return match["sentence"]
