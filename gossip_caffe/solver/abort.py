"""From what Caffe prints when it aborts to the one line that a user needs."""

from __future__ import annotations

import re
from collections.abc import Sequence

_FATAL = re.compile(r"^F\d{4,8} [\d:.]+\s+\d+ (?P<file>[\w./-]+):(?P<line>\d+)\] (?P<text>.*)$")
_ERROR = re.compile(r"^E\d{4,8} [\d:.]+\s+\d+ [\w./-]+:\d+\] (?P<text>.*)$")
_PROTO = re.compile(r"Error parsing text-format caffe\.(\w+): (\d+):(\d+): (.*)")

_REMEDIES = (
    (
        "Unknown layer type",
        "use a layer type that this Caffe has: 'gossip-caffe doctor' says which Caffe it is",
    ),
    ("MDB_", "check that the data layer's source is an LMDB"),
    ("mdb_status", "check that the data layer's source is an LMDB"),
    ("Failed to parse", "correct the prototxt at that line"),
    ("Duplicate blobs", "give every top a name of its own"),
    ("Unknown bottom blob", "check the names of the bottoms against the tops before them"),
    ("shape", "check the layer's sizes against its inputs"),
    ("Momentum cannot be used", "set momentum: 0 for this solver type"),
)


def abort_cause(stderr: Sequence[str]) -> tuple[str, str]:
    """(cause, remedy) from the last lines that a solver process printed; ("", "") when they hold no reason."""
    parse_error = ""
    for line in stderr:
        if match := _PROTO.search(line):
            parse_error = f"line {match[2]}, column {match[3]} of the {match[1]}: {match[4]}"
        if match := _FATAL.match(line):
            text = " ".join(match["text"].replace("Check failed: ", "").split())
            cause = f"Caffe refused the model: {parse_error or text}"
            remedy = next(
                (remedy for sign, remedy in _REMEDIES if sign in text), "correct the net or the solver"
            )
            return cause, remedy
    for line in reversed(stderr):
        if re.match(r"^\w*(Error|Exception)\b", line):
            return line.strip(), ""
    return "", ""
