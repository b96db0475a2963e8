"""A process that lets Caffe build a job's nets once, and tells how far it came; see ``trial`` for who asks.

Caffe ends the process that gives it a wrong net, so each attempt is a process of its own, forked from this one, which
has imported Caffe. The first that fails leaves Caffe's reason on stderr; more attempts with fewer layers, whose words
are thrown away, then find the layer. It gets one message, {"try": Trial}; back come {"types": […]}, then {"misread":
…} and no more, then for each attempt {"built": number, "found": what ``build`` tells first}, or {"failed": …} and no
more, with all that ``build`` told until then.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import json
import math
import os
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gossip_caffe.children import Control
from gossip_caffe.errors import ExitCode
from gossip_caffe.job.solver_states import read_state
from gossip_caffe.job.spec import read_fields
from gossip_caffe.processes import die_with_parent
from gossip_caffe.solver.attempts import Attempt, Trial

Tell = Callable[[dict[str, Any]], object]
"""Called by an attempt with how far it is."""


def serve(control: Control, trial: Trial) -> None:
    """Try everything in order; the first failure is the last message."""
    import caffe  # noqa: PLC0415 - only this child may

    control.send({"types": sorted(caffe.layer_type_list())})
    for index, text in enumerate(trial.texts):
        if (misread := misread_of(text.kind, text.text)) is not None:
            control.send({"misread": {"text": index, **misread}})
            return
    for index, attempt in enumerate(trial.attempts):
        code, told = in_a_process(functools.partial(build, trial, attempt))
        if not told or code != 0:
            # Whatever goes wrong after the net stands is no layer's fault.
            layer = culprit(trial, attempt) if not told else -1
            control.send({"failed": {"attempt": index, "layer": layer, "code": code, "told": told}})
            return
        control.send({"built": index, "found": told[0]})


def misread_of(kind: str, text: str) -> dict[str, Any] | None:
    """Where a text is no message of Caffe's: {"line", "column", "what"}; None also when that cannot be told here."""
    try:
        schema = importlib.import_module("caffe.proto.caffe_pb2")
        text_format = importlib.import_module("google.protobuf.text_format")
    except (ImportError, TypeError):  # a schema that was generated for another protobuf
        return None
    try:
        text_format.Parse(text, getattr(schema, kind)())
    except text_format.ParseError as error:
        what = str(error).split(" : ", 1)[-1]
        return {"line": error.GetLine() or 1, "column": error.GetColumn() or 1, "what": what}
    return None


def build(trial: Trial, attempt: Attempt, tell: Tell) -> None:
    """Build one net, tell that it stands, and then load what the attempt says.

    Told are first {"losses": how many tops are minimised, "learned": names of the layers that have weights}, then
    {"loading": a file} before each, and {"useless": the file} when nothing of it is for this net.
    """
    import caffe  # noqa: PLC0415

    from gossip_caffe.data.ring import BatchRing  # noqa: PLC0415
    from gossip_caffe.solver import source_layer  # noqa: PLC0415
    from gossip_caffe.solver.pycaffe_engine import as_file, solver_of  # noqa: PLC0415

    caffe.set_mode_cpu()
    if not attempt.is_solver:
        with contextlib.ExitStack() as files:
            caffe.Net(
                as_file(attempt.text, "net", files),
                caffe.TEST,
                level=attempt.level,
                stages=list(attempt.stages),
            )
        tell({})
        return
    source_layer.feed_from(BatchRing.create(trial.tops, trial.batch_records, 1))
    solver = solver_of(attempt.text)
    layers = zip(solver.net._layer_names, solver.net.layers, strict=True)
    tell(
        {
            "losses": sum(1 for weight in solver.net._blob_loss_weights if weight),
            "learned": [name for name, layer in layers if len(layer.blobs)],
        }
    )
    load(solver, attempt, tell)


def load(solver: Any, attempt: Attempt, tell: Tell) -> None:
    """Load the attempt's files as a founder will."""
    from gossip_caffe.solver.pycaffe_engine import Parameters, restore  # noqa: PLC0415

    blobs = Parameters(solver.net, frozenset()).blobs
    for path in attempt.weights:
        tell({"loading": path})
        for blob in blobs:
            blob.data[...] = math.nan  # which no file holds
        solver.net.copy_from(path)
        if all(math.isnan(blob.data.flat[0]) for blob in blobs if blob.count):
            tell({"useless": path})
            sys.exit(ExitCode.MODEL)
    if attempt.state:
        tell({"loading": attempt.state})
        history = read_state(Path(attempt.state)).history
        sizes = [blob.count for blob in blobs]
        if [len(blob.data) for blob in history] != sizes * (len(history) // max(1, len(sizes))):
            tell({"useless": attempt.state})
            sys.exit(ExitCode.MODEL)
        restore(solver, attempt.state)


def culprit(trial: Trial, attempt: Attempt) -> int:
    """The first layer, by its number in the attempt, with which Caffe does not build it; -1: it is no layer."""
    if in_a_process(functools.partial(build, trial, attempt.with_layers(0)), quiet=True)[0] != 0:
        return -1
    low, high = 0, len(attempt.layers)  # so many layers: low builds, high does not
    while high - low > 1:
        middle = (low + high) // 2
        fewer = functools.partial(build, trial, attempt.with_layers(middle))
        low, high = (middle, high) if in_a_process(fewer, quiet=True)[0] == 0 else (low, middle)
    return high - 1


def in_a_process(task: Callable[[Tell], None], *, quiet: bool = False) -> tuple[int, list[dict[str, Any]]]:
    """Do it in a forked process: its exit code (or minus the signal's number), and what it told."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _in_the_fork(task, parent, writer, quiet=quiet)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        told = [json.loads(line) for line in file]
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), told


def _in_the_fork(task: Callable[[Tell], None], parent: int, writer: int, *, quiet: bool) -> None:
    """Never returns."""
    code: object = ExitCode.FAILED
    try:
        die_with_parent(parent)
        if quiet:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
        with os.fdopen(writer, "wb", buffering=0) as file:
            task(lambda found: file.write(json.dumps(found).encode() + b"\n"))
        code = ExitCode.OK
    except SystemExit as end:
        code = end.code
    except BaseException:  # the outermost edge of this process; its words are what the user is told
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code if isinstance(code, int) else ExitCode.FAILED)


def main() -> int:
    """Entry of the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args()
    die_with_parent(options.parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # Caffe's aborts are expected here
    control = Control(options.control_fd)
    received = control.receive(None)
    if received is not None:
        serve(control, read_fields(Trial, received[0]["try"], "trial"))
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
