"""What a job's solver says about testing: which nets, for how many passes, and how often."""

from __future__ import annotations

from dataclasses import dataclass

from gossip_caffe.job.nets import NetState, brings_data, present
from gossip_caffe.job.prototxt import Document
from gossip_caffe.job.spec import JobSpec, NetTest

_NO_DATA_OF_ITS_OWN = ("MemoryData", "Input")


@dataclass(frozen=True, slots=True)
class PlannedTests:
    """When and what to test. No ``nets``: nothing is tested; ``why_not`` says so when the solver asks for it.

    ``interval``: iterations of the whole job between two tests. ``at_start``: fresh weights are tested too
    (test_initialization).
    """

    nets: tuple[NetTest, ...] = ()
    interval: int = 0
    at_start: bool = False
    first_iteration: int = 0
    samples_per_iteration: int = 1
    why_not: str = ""

    def marks(self, progress_samples: int) -> int:
        """How many tests are due by then: one for each multiple of the interval from the job's first iteration on."""
        if not self.nets:
            return 0
        iteration = self.first_iteration + progress_samples // self.samples_per_iteration
        if self.first_iteration:
            return iteration // self.interval - (self.first_iteration - 1) // self.interval
        return iteration // self.interval + self.at_start


def plan_of(spec: JobSpec) -> PlannedTests:
    """The plan of a job, as Caffe's Solver::Step and Solver::TestAll follow it."""
    solver = Document(spec.solver_text, "solver").root
    interval = solver.integer("test_interval")
    if not spec.tests or interval < 1:
        return PlannedTests()
    if (kind := solver.text("eval_type", "classification")) != "classification":
        return PlannedTests(why_not=f"eval_type {kind!r} is not tested while the job trains")
    if fed := next(filter(None, map(_fed_from_outside, spec.tests)), ""):
        return PlannedTests(why_not=f"{fed}, whose data a program would have to bring")
    return PlannedTests(
        nets=spec.tests,
        interval=interval,
        at_start=solver.boolean("test_initialization", True),
        first_iteration=spec.schedule.first_iteration,
        samples_per_iteration=spec.samples_per_iteration,
    )


def _fed_from_outside(test: NetTest) -> str:
    """In words, the layer of the TEST phase that has no data of its own; "" when there is none."""
    state = NetState("TEST", test.level, frozenset(test.stages))
    for layer in present(Document(test.text, "test net").root, state):
        if brings_data(layer) and layer.type in _NO_DATA_OF_ITS_OWN:
            return f"layer {layer.name!r} of the TEST net is of type {layer.type}"
    return ""
