"""The child process that measures the lengths of a job's first gradients. ``probe`` starts it.

It gets one message, {"build": EngineSpec, "data": DataSpec, "schedule": RateSchedule, "batches": [[[epoch, start,
stop], …], …], "first_record": …}, and answers {"lengths": […]}. Caffe ends the process on a mistake.
"""

from __future__ import annotations

import resource
import sys

from gossip_caffe.job.spec.data_spec import DataSpec
from gossip_caffe.job.spec.spec import RateSchedule, read_fields
from gossip_caffe.solver.engines.engine import EngineSpec
from gossip_caffe.solver.probing.gradient_lengths import gradient_lengths
from gossip_caffe.system.control import Control, run_child


def serve(control: Control) -> None:
    """Answer the one request, and end."""
    received = control.receive(None)
    if received is None:
        return
    from gossip_caffe.solver.engines.pycaffe_engine import PycaffeEngine  # noqa: PLC0415 - only this child may

    request = received[0]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    lengths = gradient_lengths(
        PycaffeEngine,
        read_fields(EngineSpec, request["build"], "engine"),
        read_fields(DataSpec, request["data"], "data"),
        read_fields(RateSchedule, request["schedule"], "schedule"),
        request["batches"],
        request["first_record"],
    )
    control.send({"lengths": lengths})


def main() -> int:
    """Entry of the process."""
    return run_child(serve)


if __name__ == "__main__":
    sys.exit(main())
