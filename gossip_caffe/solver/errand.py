"""One errand in a process of its own: a request goes in, results come out one by one, and then it ends."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gossip_caffe.children import Child, Control
from gossip_caffe.errors import SolverDied
from gossip_caffe.processes import die_with_parent
from gossip_caffe.solver.abort import abort_cause


async def run_errand(
    module: str, request: Mapping[str, object], on_result: Callable[[dict[str, Any]], None]
) -> None:
    """Run ``python -m MODULE`` on a request; ``on_result`` gets each result as it comes.

    Raises SolverDied with Caffe's reason when it ends badly. Cancelling ends it at once.
    """
    child = Child(module, on_result)
    child.start({"GLOG_minloglevel": "1"})
    child.send(request)
    try:
        end = await child.wait()
    finally:
        child.signal(signal.SIGKILL)
    if end.code != 0:
        cause, remedy = abort_cause(end.stderr)
        raise SolverDied(cause or f"{module} ended ({end.how})", remedy=remedy)


def serve_errand(work: Callable[[dict[str, Any]], Iterator[Mapping[str, object]]]) -> None:
    """The child's main: take the request, send what ``work`` yields."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args()
    die_with_parent(options.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to decide
    control = Control(options.control_fd)
    received = control.receive(None)
    if received is not None:
        for result in work(received[0]):
            control.send(result)
