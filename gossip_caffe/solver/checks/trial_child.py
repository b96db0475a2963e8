"""The child process that lets Caffe build a job's nets once, and reports its progress. ``trial`` starts it.

Caffe ends a process with a wrong net. So each attempt runs in a process of its own, forked from this one, which has
imported Caffe. The first attempt that fails leaves Caffe's reason on stderr. Further attempts with fewer layers, whose
output is dropped, then find the refused layer.

It gets one message, {"try": Trial}. It answers {"types": […]}; then {"misread": …}, as the last message, if a text
cannot be read; then for each attempt {"built": number, "found": the first report of ``build``}, or {"failed": …} with
all reports of ``build``, as the last message.
"""

from __future__ import annotations

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

from gossip_caffe.begin import die_with_parent
from gossip_caffe.errors import ExitCode
from gossip_caffe.job.prototxts.solver_states import read_state
from gossip_caffe.job.spec.spec import read_fields
from gossip_caffe.solver.checks.trial_request import Attempt, Trial
from gossip_caffe.solver.engines.place import ALONE
from gossip_caffe.solver.engines.user_layers import tell_place
from gossip_caffe.system.control import Control, given_control

Tell = Callable[[dict[str, Any]], object]
"""The function by which an attempt reports its progress."""


def serve(control: Control, trial: Trial) -> None:
    """Read the texts and make the attempts in order; the first failure is the last message."""
    import caffe  # noqa: PLC0415 - only this child may

    control.send({"types": sorted(caffe.layer_type_list())})
    for index, text in enumerate(trial.texts):
        if (misread := misread_of(text.kind, text.text)) is not None:
            control.send({"misread": {"text": index, **misread}})
            return
    for index, attempt in enumerate(trial.attempts):
        code, told = in_a_process(functools.partial(build, trial, attempt))
        if not told or code != 0:
            # After the first report the net is built: a later failure is not caused by a layer.
            layer = culprit(trial, attempt) if not told else -1
            control.send({"failed": {"attempt": index, "layer": layer, "code": code, "told": told}})
            return
        control.send({"built": index, "found": told[0]})


def misread_of(kind: str, text: str) -> dict[str, Any] | None:
    """Parse a text as Caffe's message ``kind``. Returns the mistake: {"line", "column", "what"}; None: no mistake.

    None also when this Python cannot load Caffe's schema.
    """
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
    """Build one net, report that it is built, and then load the attempt's files.

    The first report is {"losses": number of minimised tops, "learned": names of the layers with weights, "shapes": blob
    name → shape, "values": number of weights}; for a tested net only the shapes. Then comes {"loading": file} before
    each file, and {"useless": file} when the file has no weights for this net.
    """
    import caffe  # noqa: PLC0415

    from gossip_caffe.data.ring import BatchRing  # noqa: PLC0415
    from gossip_caffe.solver.engines import source_layer  # noqa: PLC0415
    from gossip_caffe.solver.engines.pycaffe_engine import as_file, solver_of  # noqa: PLC0415

    caffe.set_mode_cpu()
    tell_place(caffe, ALONE)
    if not attempt.is_solver:
        with contextlib.ExitStack() as files:
            net = caffe.Net(
                as_file(attempt.text, "net", files),
                caffe.TEST,
                level=attempt.level,
                stages=list(attempt.stages),
            )
        tell({"shapes": shapes_of(net)})
        return
    source_layer.feed_from(BatchRing.create(trial.tops, trial.batch_records, 1))
    solver = solver_of(attempt.text)
    layers = zip(solver.net._layer_names, solver.net.layers, strict=True)
    tell(
        {
            "losses": sum(1 for weight in solver.net._blob_loss_weights if weight),
            "learned": [name for name, layer in layers if len(layer.blobs)],
            "shapes": shapes_of(solver.net),
            "values": sum(int(blob.count) for layer in solver.net.layers for blob in layer.blobs),
        }
    )
    load(solver, attempt, tell)


def shapes_of(net: Any) -> dict[str, list[int]]:
    """Return the shapes of a net's blobs, by name."""
    return {name: [int(size) for size in blob.shape] for name, blob in net.blobs.items()}


def load(solver: Any, attempt: Attempt, tell: Tell) -> None:
    """Load the attempt's files as the job's first peer will."""
    from gossip_caffe.solver.engines.pycaffe_engine import Parameters, restore  # noqa: PLC0415

    blobs = Parameters(solver.net, frozenset()).blobs
    for path in attempt.weights:
        tell({"loading": path})
        for blob in blobs:
            blob.data[...] = math.nan  # no file contains NaN: values that stay NaN were not loaded
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
    """Find the first layer with which Caffe fails, by bisection. Returns its number in the attempt; -1: no layer."""
    if in_a_process(functools.partial(build, trial, attempt.with_layers(0)), quiet=True)[0] != 0:
        return -1
    low, high = (
        0,
        len(attempt.layers),
    )  # numbers of layers: Caffe builds the first low, and fails with the first high
    while high - low > 1:
        middle = (low + high) // 2
        fewer = functools.partial(build, trial, attempt.with_layers(middle))
        low, high = (middle, high) if in_a_process(fewer, quiet=True)[0] == 0 else (low, middle)
    return high - 1


def in_a_process(task: Callable[[Tell], None], *, quiet: bool = False) -> tuple[int, list[dict[str, Any]]]:
    """Run ``task`` in a forked process. Returns its exit code (or minus the signal's number) and its reports.

    ``quiet``: drop its output.
    """
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
    """Run ``task`` in this forked process, and end the process. It never returns."""
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
    except BaseException:  # the outermost edge of this process; the user gets its last line
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code if isinstance(code, int) else ExitCode.FAILED)


def main() -> int:
    """Entry of the process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # Caffe's aborts are expected here
    control = given_control()
    received = control.receive(None)
    if received is not None:
        serve(control, read_fields(Trial, received[0]["try"], "trial"))
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
