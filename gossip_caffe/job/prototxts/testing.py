"""The tests that a job's solver asks for: the nets, the number of passes, and the interval."""

from __future__ import annotations

from dataclasses import dataclass

from gossip_caffe.job.prototxts.nets import NetState, brings_data, present
from gossip_caffe.job.prototxts.prototxt import Document
from gossip_caffe.job.spec.spec import JobSpec, NetTest

_NO_DATA_OF_ITS_OWN = ("MemoryData", "Input")


@dataclass(frozen=True, slots=True)
class PlannedTests:
    """The times and nets of the tests.

    Without ``nets`` there are no tests; ``why_not`` is the reason if the solver asks for some.

    ``interval``: iterations of the whole job between two tests. ``at_start``: fresh weights are tested, too
    (test_initialization).
    """

    nets: tuple[NetTest, ...] = ()
    interval: int = 0
    at_start: bool = False
    first_iteration: int = 0
    samples_per_iteration: int = 1
    why_not: str = ""

    def iteration_of(self, mark: int) -> int:
        """The iteration at which Caffe makes the job's test number ``mark``, counted from 1."""
        if self.first_iteration:
            return ((self.first_iteration - 1) // self.interval + mark) * self.interval
        return (mark - self.at_start) * self.interval

    def samples_at(self, mark: int) -> int:
        """The samples of the whole job after which test number ``mark`` is due."""
        return (self.iteration_of(mark) - self.first_iteration) * self.samples_per_iteration

    def marks(self, progress_samples: int) -> int:
        """The number of tests due after so many samples: one per multiple of the interval since the first iteration."""
        if not self.nets:
            return 0
        iteration = self.first_iteration + progress_samples // self.samples_per_iteration
        if self.first_iteration:
            return iteration // self.interval - (self.first_iteration - 1) // self.interval
        return iteration // self.interval + self.at_start


def plan_of(spec: JobSpec) -> PlannedTests:
    """The tests of a job, as Caffe's Solver::Step and Solver::TestAll make them."""
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
    """A description of a layer of the TEST phase without data of its own; "" when there is none."""
    state = NetState("TEST", test.level, frozenset(test.stages))
    for layer in present(Document(test.text, "test net").root, state):
        if brings_data(layer) and layer.type in _NO_DATA_OF_ITS_OWN:
            return f"layer {layer.name!r} of the TEST net is of type {layer.type}"
    return ""
