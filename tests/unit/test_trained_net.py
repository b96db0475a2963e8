"""What is read from a net's text about its training."""

from __future__ import annotations

import pytest

from gossip_caffe.job.prototxts.prototxt import Document
from gossip_caffe.solver.engines.trained_net import frozen_parameters, needs_whole_batches, trained_layers

FROZEN = "param { lr_mult: 0 }"


def solver(net: str, field: str = "train_net_param", rest: str = "") -> str:
    return f"base_lr: 1 {rest} {field} {{ {net} }}"


@pytest.mark.parametrize(
    ("net", "frozen"),
    [
        (f'layer {{ name: "a" type: "Convolution" {FROZEN} {FROZEN} }}', {("a", 0), ("a", 1)}),
        (f'layer {{ name: "a" type: "Convolution" param {{ }} {FROZEN} }}', {("a", 1)}),
        ('layer { name: "a" type: "Convolution" param { decay_mult: 0 } }', set()),
        ('layer { name: "a" type: "InnerProduct" param { lr_mult: 0.0 name: "w" } }', {("a", 0)}),
        (f'layer {{ name: "a" type: "BatchNorm" {FROZEN} {FROZEN} {FROZEN} }}', set()),
        (f'layer {{ name: "a" type: "Python" {FROZEN} }}', set()),
        (f'layer {{ name: "a" type: "InnerProduct" {FROZEN} include {{ phase: TEST }} }}', set()),
        (f'layer {{ name: "a" type: "InnerProduct" {FROZEN} include {{ stage: "x" }} }}', {("a", 0)}),
    ],
)
def test_only_what_a_solver_alone_would_change_and_does_not_is_frozen(
    net: str, frozen: set[tuple[str, int]]
) -> None:
    for field in ("train_net_param", "net_param"):
        text = solver(net, field, 'train_state { stage: "x" }')
        assert frozen_parameters(trained_layers(Document(text, "solver").root)) == frozen


def test_a_solver_without_its_net_trains_no_layers() -> None:
    assert trained_layers(Document('net: "elsewhere"', "solver").root) == []


RESHAPE = 'layer {{ name: "r" type: "Reshape" reshape_param {{ shape {{ {} }} }} }}'


@pytest.mark.parametrize(
    ("layer", "needed"),
    [
        ('layer { name: "a" type: "Convolution" }', False),
        ('layer { name: "a" type: "LSTM" }', True),
        ('layer { name: "a" type: "DummyData" }', True),
        ('layer { name: "a" type: "DummyData" include { phase: TEST } }', False),
        ('layer { name: "a" type: "Python" python_param { module: "mine" } }', True),
        ('layer { name: "a" type: "Python" }', True),
        (
            'layer { name: "a" type: "Python" python_param { module: "gossip_caffe.solver.engines.source_layer" } }',
            False,
        ),
        (RESHAPE.format("dim: 0 dim: -1"), False),
        (RESHAPE.format("dim: -1 dim: 4"), False),
        (RESHAPE.format("dim: 16 dim: -1"), True),
        ('layer { name: "a" type: "Slice" slice_param { axis: 0 } }', True),
        ('layer { name: "a" type: "Slice" slice_param { slice_dim: 1 } }', False),
        ('layer { name: "a" type: "Slice" }', False),
    ],
)
def test_a_net_needs_whole_batches_when_a_layer_fixes_their_size(layer: str, needed: bool) -> None:
    assert needs_whole_batches(trained_layers(Document(solver(layer), "solver").root)) is needed
