"""The loader process: reads planned records, transforms them, and fills the ring.

Messages to it: {"open": DataSpec, "seed": n} with the ring's descriptors; {"plan": [[sequence, [[epoch,
start, stop], …]], …]}; {"stop": true}. From it: {"ready": true}; {"failed": one line, "remedy": …} before it
ends with exit code 7.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.children import Control
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.data.source import RecordSource, open_source
from gossip_caffe.data.transform import Transformer
from gossip_caffe.errors import ExitCode, GossipCaffeError
from gossip_caffe.job.spec import DataSpec, read_fields
from gossip_caffe.processes import die_with_parent

WAIT_FOR_SLOT_S = 0.2


def fill(
    source: RecordSource, transformer: Transformer, parts: list[list[int]], arrays: list[NDArray[np.float32]]
) -> int:
    """Load the records of ``parts`` into a slot's arrays; returns how many there are."""
    row = 0
    for epoch, start, stop in parts:
        records = list(source.read(start, stop))
        rows = slice(row, row + len(records))
        transformer.apply(records, epoch, start, arrays[0][rows])
        if len(arrays) > 1:
            arrays[1][rows] = [record.label for record in records]
        row += len(records)
    return row


def serve(control: Control) -> None:
    """Open what the first message names, then load what is planned until told to stop."""
    received = control.receive(None)
    if received is None:
        return
    message, fds = received
    spec = read_fields(DataSpec, message["open"], "data")
    ring = BatchRing.attach(fds)
    source, transformer = open_source(spec), Transformer(spec.transform, message["seed"])
    control.send({"ready": True})
    plan: deque[Any] = deque()
    while True:
        received = control.receive(0.0 if plan else None)
        if received is not None:
            if "stop" in received[0]:
                return
            plan.extend(received[0]["plan"])
            continue
        arrays = ring.reserve(WAIT_FOR_SLOT_S)
        if arrays is not None:
            sequence, parts = plan.popleft()
            ring.commit(sequence, fill(source, transformer, parts, arrays))


def main() -> int:
    """Entry of the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args()
    die_with_parent(options.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the agent's to decide
    control = Control(options.control_fd)
    try:
        serve(control)
    except EOFError:
        return ExitCode.OK
    except GossipCaffeError as error:
        control.send({"failed": error.message, "remedy": error.remedy})
        return ExitCode.MODEL
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
