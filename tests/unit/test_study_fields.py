"""Edits of prototxts by path: the field has its new value, and every other byte stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.job.prototxts.prototxt import Document, edited
from gossip_caffe.tune.study.fields import NetText, NoSuchField, net_edit, solver_edit
from gossip_caffe.tune.study.parameters import Value
from gossip_caffe.tune.study.trial_job import budget_of, with_budget

SOLVER = """# mine
net: "net.prototxt"   # the net
base_lr: 0.01 momentum: 0.9
lr_policy: 'step'
stepsize: 100
max_iter: 1000
test_interval: 100 # often
stepvalue: [10, 20]
solver_mode: CPU"""

NET = """name: "n"
layer { name: "data" type: "Data" top: "data" include { phase: TRAIN } data_param { source: "a" batch_size: 64 } }
layer { name: "data" type: "Data" top: "data" include { phase: TEST } data_param { source: "b" batch_size: 100 } }
layer {
  name: "conv.1" type: "Convolution" bottom: "data" top: "conv.1"
  param { lr_mult: 1 } param { lr_mult: 2 }
  convolution_param < num_output: 20 # filters
    kernel_size: 5; weight_filler { type: "xavier" } >
}
layer { name: "pool" type: "Pooling" bottom: "conv.1" top: "pool" pooling_param { pool: MAX } }
layer { name: "drop" type: "Dropout" bottom: "pool" top: "pool" dropout_param {} }
"""


def changed(text: str, edit: tuple[int, int, str] | None) -> str:
    assert edit is not None
    return edited(text, [edit])


def net(path: str, value: Value) -> str:
    document = Document(NET, "net")
    return changed(NET, net_edit(NetText(document, document.root), path, value))


@pytest.mark.parametrize(
    ("path", "value", "old", "new"),
    [
        ("conv.1.convolution_param.num_output", 32, "num_output: 20 #", "num_output: 32 #"),
        ("conv.1.num_output", 32, "num_output: 20 #", "num_output: 32 #"),
        ("conv.1.convolution_param.weight_filler.type", "gaussian", 'type: "xavier"', 'type: "gaussian"'),
        ("data.batch_size", 16, "batch_size: 64", "batch_size: 16"),
        ("pool.pooling_param.pool", "AVE", "pool: MAX", "pool: AVE"),
        (
            "drop.dropout_param.dropout_ratio",
            0.25,
            "dropout_param {}",
            "dropout_param { dropout_ratio: 0.25 }",
        ),
        (
            "conv.1.convolution_param.engine",
            "CAFFE",
            'weight_filler { type: "xavier" } >',
            'weight_filler { type: "xavier" } engine: CAFFE >',
        ),
        ("pool.a.b", True, "pool: MAX } }", "pool: MAX } a { b: true } }"),
    ],
)
def test_a_layers_field_is_set_and_all_else_stays(path: str, value: Value, old: str, new: str) -> None:
    assert net(path, value) == NET.replace(old, new, 1)


@pytest.mark.parametrize(
    ("steps", "value", "old", "new"),
    [
        ("base_lr", 0.003, "base_lr: 0.01", "base_lr: 0.003"),
        ("base_lr", 1e-05, "base_lr: 0.01", "base_lr: 1e-05"),
        ("lr_policy", "inv", "'step'", '"inv"'),
        ("solver_mode", "GPU", "solver_mode: CPU", "solver_mode: GPU"),
        ("weight_decay", 0.5, "solver_mode: CPU", "solver_mode: CPU\nweight_decay: 0.5\n"),
        ("type", "Adam", "solver_mode: CPU", 'solver_mode: CPU\ntype: "Adam"\n'),
    ],
)
def test_a_solvers_field_is_set_or_added(steps: str, value: Value, old: str, new: str) -> None:
    edit = solver_edit(Document(SOLVER, "solver"), steps.split("."), value)
    assert changed(SOLVER, edit) == SOLVER.replace(old, new, 1)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("conv.1.lr_mult", "stands 2 times"),
        ("conv.1.param.lr_mult", "stands 2 times"),
        ("conv.1.nothing", "has no field 'nothing'"),
        ("conv.1.convolution_param", "is no single value"),
        ("conv.1.type.x", "has no fields of its own"),
    ],
)
def test_a_path_that_leads_to_no_single_field_is_refused(path: str, said: str) -> None:
    with pytest.raises(NoSuchField, match=said):
        net(path, 1)


def test_a_layer_that_the_net_lacks_is_no_edit() -> None:
    document = Document(NET, "net")
    assert net_edit(NetText(document, document.root), "other.num_output", 1) is None


blanks = st.sampled_from(["", " ", "\n", "  # a comment: { } \n", "\t"])
values = st.one_of(
    st.integers(-(10**9), 10**9),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8),
)


@given(data=st.data(), value=values, quoted=st.booleans())
def test_any_layout_keeps_every_byte_outside_of_the_value(
    data: st.DataObject, value: Value, quoted: bool
) -> None:
    def blank() -> str:
        return data.draw(blanks)

    if isinstance(value, str):
        quoted = True
    before = f"{blank()}a:{blank()}1{blank()}\nm{blank()}{{{blank()}x:{blank()}2;{blank()}\nfield:{blank()}"
    after = f"{blank()}\ny: 3{blank()}}}{blank()}\nb: 4{blank()}"
    old = '"old"' if quoted else "17"
    document = Document(before + old + after, "text")
    text = changed(document.text, solver_edit(document, ["m", "field"], value))
    assert text.startswith(before)
    assert text.endswith(after)
    message = Document(text, "text").root.messages("m")[0]
    if isinstance(value, bool):
        assert message.boolean("field") is value
    elif isinstance(value, int):
        assert message.integer("field") == value
    elif isinstance(value, float):
        assert message.number("field") == pytest.approx(value, rel=1e-6)
    else:
        assert message.text("field") == value


@given(st.integers(1, 10**6), st.integers(1, 50), st.integers(1, 512))
def test_a_budget_is_whole_tests_and_nearly_the_samples(samples: int, tests: int, per_iteration: int) -> None:
    budget = budget_of(samples, tests, per_iteration)
    assert budget.max_iter == budget.test_interval * tests
    assert abs(budget.max_iter * per_iteration - samples) <= max(per_iteration * tests, samples / 2)


def test_the_schedules_steps_keep_their_places_in_a_shorter_training() -> None:
    text = with_budget(SOLVER, budget_of(500 * 10, 5, 10), {})
    expected = SOLVER.replace("stepsize: 100", "stepsize: 50").replace("max_iter: 1000", "max_iter: 500")
    assert text == expected.replace("[10, 20]", "[5, 10]")
    tuned = with_budget(SOLVER, budget_of(500 * 10, 5, 10), {"solver.stepsize": 100})
    assert "stepsize: 100" in tuned
