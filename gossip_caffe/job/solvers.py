"""What a solver's text says: its nets, its type and its learning-rate policy."""

from __future__ import annotations

from gossip_caffe.job.learning_rate import POLICIES
from gossip_caffe.job.legacy import upgraded
from gossip_caffe.job.paths import Paths, read_text
from gossip_caffe.job.prototxt import Document, Field, Message
from gossip_caffe.job.spec import RateSchedule

SOLVER_TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")
_NETS = ("net", "net_param", "train_net", "train_net_param")
_WITHOUT_MOMENTUM = ("AdaGrad", "RMSProp")


def train_net(solver: Document, paths: Paths) -> Document:
    """Find the training net: in a file (net, train_net) or inline (net_param, train_net_param).

    Raises ModelError unless there is exactly one.
    """
    named = [entry for entry in solver.root.fields if entry.name in _NETS]
    if len(named) != 1:
        at = named[1].start if named else 0
        what = "names several nets" if named else "names no net"
        raise solver.error(at, f"the solver {what}", f"give exactly one of {', '.join(_NETS)}")
    return _net_of(solver, named[0], paths)


def test_nets(solver: Document, generic: Document, paths: Paths) -> list[tuple[Document, Message | None]]:
    """Find the nets that are tested, each with its test_state; ``generic`` is the net that is also trained.

    First all test_net_param, then all test_net, then the common net for what is left of test_iter: Caffe's
    Solver::InitTestNets. Raises ModelError where that would abort.
    """
    root = solver.root
    iterations, states = root.all("test_iter"), root.all("test_state")
    own = [_net_of(solver, entry, paths) for entry in (*root.all("test_net_param"), *root.all("test_net"))]
    common = bool(root.all("net") or root.all("net_param"))
    if len(iterations) < len(own) or (len(iterations) > len(own) and not common):
        at = (root.all("test_iter") or root.all("test_net") or root.all("test_net_param"))[0].start
        what = f"there are {len(iterations)} test_iter for {len(own)} test nets"
        raise solver.error(at, what, "give one test_iter for each test net")
    nets = own + [generic] * (len(iterations) - len(own))
    if states and len(states) != len(nets):
        what = f"there are {len(states)} test_state for {len(nets)} test nets"
        raise solver.error(states[0].start, what, "give one for each test net, or none")
    if nets and root.integer("test_interval") <= 0:
        at = (root.last("test_interval") or iterations[0]).start
        raise solver.error(at, "test_interval must be given and positive", "add test_interval: VALUE")
    for entry in iterations:
        if solver.integer_of(entry) < 0:
            raise solver.error(entry.start, "test_iter is negative", "give 1 or more, or remove the tests")
    given: list[Message | None] = [solver.message_of(entry) for entry in states]
    return list(zip(nets, given or [None] * len(nets), strict=True))


def _net_of(solver: Document, entry: Field, paths: Paths) -> Document:
    if not entry.name.endswith("param"):
        path = paths.resolve(solver.scalar_of(entry).text)
        if not path.exists():
            raise solver.error(entry.start, f"there is no net at {path}", "check the path")
        return upgraded(Document(read_text(path, "net"), paths.shown(path)))
    inline = solver.message_of(entry)
    if not inline.fields:
        raise solver.error(entry.start, f"{entry.name} is empty", "put the net's layers there")
    first, last = inline.fields[0].start, inline.fields[-1].end
    # The inline text keeps the solver's lines and columns: what stands before it becomes empty.
    line, column = solver.place(first)
    return upgraded(Document("\n" * (line - 1) + " " * (column - 1) + solver.text[first:last], solver.name))


def solver_type(solver: Document) -> str:
    """Read the solver's type, by name or by the older enum. Raises ModelError where Caffe would abort."""
    root = solver.root
    entry = root.last("type") or root.last("solver_type")
    written = solver.scalar_of(entry).text if entry else "SGD"
    names = {str(index): name for index, name in enumerate(SOLVER_TYPES)}
    names |= {name.upper(): name for name in SOLVER_TYPES}
    kind = names.get(written, written) if entry and entry.name == "solver_type" else written
    if kind not in SOLVER_TYPES:
        at = entry.start if entry else 0
        raise solver.error(at, f"unknown solver type {written!r}", f"use one of {', '.join(SOLVER_TYPES)}")
    momentum = root.last("momentum")
    if kind in _WITHOUT_MOMENTUM and momentum is not None and root.number("momentum") != 0:
        raise solver.error(momentum.start, f"Caffe's {kind} takes no momentum", "remove the line")
    return kind


def rate_schedule(solver: Document) -> RateSchedule:
    """Read the learning-rate policy. Raises ModelError for what Caffe would abort on later."""
    root = solver.root
    policy = root.text("lr_policy")
    if policy not in POLICIES:
        at = entry.start if (entry := root.last("lr_policy")) else 0
        raise solver.error(at, f"lr_policy is {policy!r}", f"use one of {', '.join(POLICIES)}")
    for name, wanted in (("base_lr", True), ("max_iter", True), ("stepsize", policy == "step")):
        if wanted and not root.number(name) > 0:
            at = entry.start if (entry := root.last(name)) else 0
            raise solver.error(at, f"{name} must be given and positive", f"add {name}: VALUE")
    return RateSchedule(
        policy=policy,
        base_lr=root.number("base_lr"),
        gamma=root.number("gamma"),
        power=root.number("power"),
        stepsize=root.integer("stepsize"),
        stepvalues=tuple(solver.integer_of(entry) for entry in root.all("stepvalue")),
        max_iter=root.integer("max_iter"),
    )
