"""The version and abilities of the installed Caffe, read in a child process: importing Caffe may end a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

from gossip_caffe.begin import for_python

DEADLINE_S = 60.0

# The working folder is the last in the search path, as for a peer: see ``begin``.
_SCRIPT = """
import os, sys
try:
    sys.path.append(os.getcwd())
except OSError:
    pass
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
caffe.set_device(0)  # without CUDA, or without a GPU, this ends the process
print("cuda")
"""


@dataclass(frozen=True, slots=True)
class PycaffeReport:
    """The installed Caffe. ``problem``: one line that says why peers cannot train with it; empty if they can.

    ``path``: the module's file; ``layers``: the number of layer types; ``extension``: it has ``caffe._gossip``;
    ``cuda``: it was built with CUDA and finds a GPU.
    """

    path: str = ""
    version: str = ""
    extension: bool = False
    layers: int = 0
    problem: str = ""
    cuda: bool = False


def probe(python: str = sys.executable) -> PycaffeReport:
    """Report on the Caffe that the interpreter ``python`` imports."""
    surroundings = {**os.environ, **for_python()}
    try:
        done = subprocess.run(
            [python, "-P", "-c", _SCRIPT],
            env={name: value for name, value in surroundings.items() if value is not None},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return PycaffeReport(problem=f"import caffe takes longer than {DEADLINE_S:.0f} s")
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
