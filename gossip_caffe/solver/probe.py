"""Which Caffe this Python has, and what it can do; found out in a child, because importing Caffe may end a process."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

DEADLINE_S = 60.0

_SCRIPT = """
import json, resource
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
}), flush=True)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
caffe.set_device(0)  # without CUDA, or without a card, this ends the process
print("cuda")
"""


@dataclass(frozen=True, slots=True)
class PycaffeReport:
    """What was found. ``problem`` is empty when peers can train with it, else one line that says why not.

    ``cuda``: it was built with CUDA and has a card here.
    """

    path: str = ""
    version: str = ""
    extension: bool = False
    layers: int = 0
    problem: str = ""
    cuda: bool = False


def probe(python: str = sys.executable) -> PycaffeReport:
    """Look at the Caffe that ``python`` imports."""
    try:
        done = subprocess.run(
            [python, "-c", _SCRIPT], capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return PycaffeReport(problem="importing caffe does not come to an end")
    lines = done.stdout.splitlines()
    described = next((line for line in lines if line.startswith("{")), "")
    if not described:
        last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        return PycaffeReport(problem=f"import caffe fails: {last}")
    found = json.loads(described)
    problem = ""
    if not found["python_layer"]:
        problem = "it was built without Python layers"
    elif not found["rate"]:
        problem = "it cannot set the learning rate of a step"
    return PycaffeReport(
        path=found["path"],
        version=found["version"],
        extension=found["extension"],
        layers=found["layers"],
        problem=problem,
        cuda=lines[-1] == "cuda",
    )
