"""The comparison with plain Caffe: the training of a single solver, and the accuracy of any weights."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gossip_caffe.begin import python_command
from gossip_caffe.clock import Clock
from gossip_caffe.demo.model import BATCH, TEST_ITER, DemoFiles
from gossip_caffe.errors import ModelError
from gossip_caffe.job.spec.spec import NetTest
from gossip_caffe.solver.checks.caffe_errors import abort_cause
from gossip_caffe.solver.evaluation.evaluation import CaffeEvaluator
from gossip_caffe.system.processes import spawn

SAY_EVERY_S = 4.0

# One BLAS thread, as for the peers. Caffe logs only errors (level 2).
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "GLOG_minloglevel": "2"}


def train_single(
    files: DemoFiles, iterations: int, say: Callable[[str], None], clock: Clock
) -> list[tuple[int, Path]]:
    """Train one bare Caffe solver. Returns its snapshots as (samples trained, .caffemodel), the oldest first.

    Raises ModelError with the cause that Caffe printed.
    """
    files.single.parent.mkdir(parents=True, exist_ok=True)
    began = said_at = clock.monotonic()
    every = max(1, iterations // 100)
    for told in _asked({"solver": str(files.solver), "iterations": iterations, "every": every}):
        done, now = int(told["iteration"]), clock.monotonic()
        if now - said_at >= SAY_EVERY_S or done == iterations:
            said_at = now
            share = f"{done / iterations:4.0%} of {iterations * BATCH:,} samples"
            say(f"{now - began:5.0f} s  {share}, {done * BATCH / (now - began):,.0f} samples/s")
    found = files.single.parent.glob(f"{files.single.name}_iter_*.caffemodel")
    return sorted((int(model.stem.rpartition("_")[2]) * BATCH, model) for model in found)


def accuracies(files: DemoFiles, models: Sequence[Path]) -> list[float]:
    """Return the test accuracy, 0 to 1, of each of these weights. Raises ModelError with Caffe's cause."""
    net = NetTest(files.net.read_text(encoding="utf-8"), TEST_ITER)
    tested = asyncio.run(CaffeEvaluator().evaluate_all([net], models))
    found = [output.scalar for outputs in tested for output in outputs if output.name == "accuracy"]
    return [0.0 if accuracy is None else accuracy for accuracy in found]


def _asked(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Run the task with plain Caffe in a child process, and yield its messages. The generator ends the child."""
    arguments = ("--parent", str(os.getpid()), json.dumps(task))
    command = python_command("gossip_caffe.demo.plain_caffe", *arguments)
    with tempfile.TemporaryFile() as errors:
        child = spawn(command, stdout=subprocess.PIPE, stderr=errors, environment=_ENVIRONMENT)
        try:
            for line in child.stdout or ():
                yield json.loads(line)
            code = child.wait()
        finally:
            child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()
        if code != 0:
            errors.seek(0)
            lines = errors.read().decode("utf-8", "replace").splitlines()
            cause, remedy = abort_cause(lines)
            last = lines[-1] if lines else f"exit {code}"
            raise ModelError(
                f"plain Caffe failed: {cause or last}", remedy=remedy or "see 'gossip-caffe doctor'"
            )
