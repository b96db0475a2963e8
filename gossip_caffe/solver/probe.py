"""Which Caffe this Python has, and what it can do; found out in a child, because importing Caffe may end a process."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

DEADLINE_S = 60.0

_SCRIPT = """
import json, sys
import caffe
types = list(caffe.layer_type_list())
try:
    from caffe import _gossip
    extension = True
except ImportError:
    extension = False
print(json.dumps({
    "path": caffe.__file__, "version": getattr(caffe, "__version__", "unknown"), "extension": extension,
    "layers": len(types), "python_layer": "Python" in types,
    "rate": extension or hasattr(getattr(caffe.SGDSolver, "param", None), "fget"),
}))
"""


@dataclass(frozen=True, slots=True)
class PycaffeReport:
    """What was found. ``problem`` is empty when peers can train with it, else one line that says why not."""

    path: str = ""
    version: str = ""
    extension: bool = False
    layers: int = 0
    problem: str = ""


def probe(python: str = sys.executable) -> PycaffeReport:
    """Look at the Caffe that ``python`` imports."""
    try:
        done = subprocess.run(
            [python, "-c", _SCRIPT], capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return PycaffeReport(problem="importing caffe does not come to an end")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        return PycaffeReport(problem=f"import caffe fails: {last}")
    found = json.loads(done.stdout.splitlines()[-1])
    problem = ""
    if not found["python_layer"]:
        problem = "it was built without Python layers"
    elif not found["rate"]:
        problem = "it cannot set the learning rate of a step"
    return PycaffeReport(found["path"], found["version"], found["extension"], found["layers"], problem)
