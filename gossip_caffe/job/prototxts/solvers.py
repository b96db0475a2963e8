"""The contents of a solver's text: its nets, its type and its learning-rate policy."""

from __future__ import annotations

from collections.abc import Sequence

from gossip_caffe.job.prototxts.legacy import upgraded
from gossip_caffe.job.prototxts.paths import Paths
from gossip_caffe.job.prototxts.prototxt import Document, Field, TextMessage, edited
from gossip_caffe.job.prototxts.rewriting import quoted
from gossip_caffe.job.spec.learning_rate import POLICIES
from gossip_caffe.job.spec.spec import RateSchedule

SOLVER_TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")
REGULARIZATIONS = ("L2", "L1")
_NETS = ("net", "net_param", "train_net", "train_net_param")
_WITHOUT_MOMENTUM = ("AdaGrad", "RMSProp")


def train_net(solver: Document, paths: Paths) -> Document:
    """The training net: in a file (net, train_net) or inline (net_param, train_net_param).

    Raises ModelError unless there is exactly one.
    """
    named = [entry for entry in solver.root.fields if entry.name in _NETS]
    if len(named) != 1:
        at = named[1].start if named else 0
        what = "names several nets" if named else "names no net"
        raise solver.error(at, f"the solver {what}", f"give exactly one of {', '.join(_NETS)}")
    return _net_of(solver, named[0], paths)


def test_nets(solver: Document, generic: Document, paths: Paths) -> list[tuple[Document, TextMessage | None]]:
    """The test nets, each with its test_state. ``generic`` is the net that is also trained.

    The order is that of Caffe's Solver::InitTestNets: first all test_net_param, then all test_net, then the generic
    net for the remaining test_iter. Raises ModelError where Caffe would abort.
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
    given: list[TextMessage | None] = [solver.message_of(entry) for entry in states]
    return list(zip(nets, given or [None] * len(nets), strict=True))


def _net_of(solver: Document, entry: Field, paths: Paths) -> Document:
    if not entry.name.endswith("param"):
        path = paths.resolve(solver.scalar_of(entry).text)
        if not paths.has(path):
            raise solver.error(entry.start, f"there is no net at {path}", "check the path")
        return upgraded(Document(paths.read(path, "net"), paths.shown(path)))
    inline = solver.message_of(entry)
    if not inline.fields:
        raise solver.error(entry.start, f"{entry.name} is empty", "put the net's layers there")
    first, last = inline.fields[0].start, inline.fields[-1].end
    # The inline net keeps the solver's lines and columns: the text before it is replaced by blanks.
    line, column = solver.place(first)
    return upgraded(Document("\n" * (line - 1) + " " * (column - 1) + solver.text[first:last], solver.name))


def solver_type(solver: Document) -> str:
    """The solver's type, by name or by the older enum. Raises ModelError where Caffe would abort."""
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


def _check_rate(solver: Document) -> None:
    """Raise ModelError without base_lr. A base_lr of 0 is valid: nothing is learned then, as in Caffe."""
    entry = solver.root.last("base_lr")
    if entry is None:
        raise solver.error(0, "the solver gives no base_lr", "add base_lr: VALUE")
    if not solver.root.number("base_lr") >= 0:
        written = solver.scalar_of(entry).text
        raise solver.error(entry.start, f"base_lr is {written}: the loss would be raised", "give 0 or more")


def _check_length(solver: Document) -> None:
    entry = solver.root.last("max_iter")
    if entry is None:
        raise solver.error(
            0, "the solver gives no max_iter: nothing says how long to train", "add max_iter: VALUE"
        )
    iterations = solver.integer_of(entry)
    if iterations == 0:
        what = "max_iter is 0: there is nothing to train"
        raise solver.error(
            entry.start, what, "raise it; 'gossip-caffe evaluate' tests a model without training"
        )
    if iterations < 0:
        raise solver.error(entry.start, f"max_iter is {iterations}", "give 1 or more")


def _check_stepsize(solver: Document) -> None:
    entry = solver.root.last("stepsize")
    if entry is None:
        raise solver.error(0, 'lr_policy is "step", and the solver gives no stepsize', "add stepsize: VALUE")
    if solver.integer_of(entry) <= 0:
        raise solver.error(entry.start, f"stepsize is {solver.integer_of(entry)}", "give 1 or more")


def check_regularization(solver: Document) -> None:
    """Raise ModelError for a value on which Caffe's SGDSolver::Regularize aborts, in the first step with a decay."""
    entry = solver.root.last("regularization_type")
    if entry is None or not solver.root.number("weight_decay"):
        return
    written = solver.scalar_of(entry).text
    if written not in REGULARIZATIONS:
        what = f"unknown regularization_type {written!r}"
        raise solver.error(entry.start, what, f"use one of {', '.join(REGULARIZATIONS)}")


def rate_schedule(solver: Document) -> RateSchedule:
    """The learning-rate policy. Raises ModelError for a value on which Caffe would abort later."""
    root = solver.root
    policy = root.text("lr_policy")
    if policy not in POLICIES:
        at = entry.start if (entry := root.last("lr_policy")) else 0
        raise solver.error(at, f"lr_policy is {policy!r}", f"use one of {', '.join(POLICIES)}")
    _check_rate(solver)
    _check_length(solver)
    if policy == "step":
        _check_stepsize(solver)
    return RateSchedule(
        policy=policy,
        base_lr=root.number("base_lr"),
        gamma=root.number("gamma"),
        power=root.number("power"),
        stepsize=root.integer("stepsize"),
        stepvalues=tuple(solver.integer_of(entry) for entry in root.all("stepvalue")),
        max_iter=root.integer("max_iter"),
    )


def stages_of(text: str) -> tuple[str, ...]:
    """Read the value of ``--stage``: names with commas between them."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def with_train_state(solver: Document, level: int | None, stages: Sequence[str]) -> Document:
    """The solver with ``level`` in place of its train_state's level, and with the further stages.

    None: the level stays. Line numbers stay the same. Raises ModelError where train_state is no message.
    """
    if level is None and not stages:
        return solver
    added = [f"level: {level}"] if level is not None else []
    added += [f"stage: {quoted(name)}" for name in stages]
    state = solver.root.message("train_state")
    if state is None:
        return Document(f"{solver.text.rstrip()}\ntrain_state {{ {' '.join(added)} }}\n", solver.name)
    entry = solver.root.all("train_state")[-1]
    edits = [
        (old.start, old.end, " " * (old.end - old.start)) for old in state.all("level") if level is not None
    ]
    inside = max(
        token.start
        for token in solver.tokens
        if token.end <= entry.end and token.kind == "mark" and token.text in {"}", ">"}
    )
    return Document(edited(solver.text, [*edits, (inside, inside, f" {' '.join(added)} ")]), solver.name)
