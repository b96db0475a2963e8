"""The added layers on a GPU against the CPU, in float64: outputs and gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import caffe
import numpy as np
import pytest

from gossip_caffe.solver.gpu.gpus import Gpu
from tests.added_layers import Array, Checked, added_layers

pytestmark = added_layers()
SHAPE = (6, 4, 9, 7)


@dataclass(frozen=True)
class Case:
    """A layer's text after its bottoms and tops, its bottoms, and those that want a gradient."""

    kind: str
    param: str
    bottoms: list[Array]
    wanted: list[bool]
    tops: int = 1
    parameters: list[Array] | None = field(default=None)


def cases() -> list[Case]:
    rng = np.random.default_rng(9)
    x, labels = rng.normal(size=SHAPE), rng.integers(0, 5, 6).astype(np.float64)
    corners = np.sort(rng.uniform(-10, 90, (20, 2, 2)), axis=1).reshape(-1, 4)
    regions = np.column_stack([rng.integers(0, 6, 20), corners])
    centers = rng.normal(size=(5, 4 * 9 * 7))
    more = [rng.normal(size=SHAPE) for _ in range(3)]
    return [
        Case("Swish", "swish_param { beta: 0.7 }", [x], [True]),
        Case("Clip", "clip_param { min: -1 max: 0.5 }", [x], [True]),
        Case(
            "ROIPooling",
            "roi_pooling_param { pooled_h: 3 pooled_w: 4 spatial_scale: 0.1 }",
            [x, regions],
            [True, False],
        ),
        Case("SmoothL1Loss", "smooth_l1_loss_param { sigma: 2 }", [x, *more], [True, True, False, False]),
        Case(
            "CenterLoss",
            "center_loss_param { num_output: 5 }",
            [x, labels],
            [True, False],
            parameters=[centers],
        ),
        Case(
            "MarginInnerProduct",
            "margin_inner_product_param { num_output: 5 type: QUADRUPLE }",
            [x, labels],
            [True, False],
            tops=2,
            parameters=[centers],
        ),
    ]


@pytest.fixture(autouse=True)
def back_to_the_cpu() -> Iterator[None]:
    yield
    caffe.set_mode_cpu()


def passes(case: Case) -> list[Array]:
    """Tops, gradients of bottoms and of parameters."""
    names = [f'bottom: "b{b}"' for b in range(len(case.bottoms))] + [f'top: "t{t}"' for t in range(case.tops)]
    checked = Checked(f'name: "it" type: "{case.kind}" {" ".join(names)} {case.param}', case.parameters)
    tops = checked.forward(case.bottoms)
    rng = np.random.default_rng(1)
    weights = [np.asarray(rng.normal(size=top.shape)) for top in tops]
    by_bottoms, by_parameters = checked.gradients(case.bottoms, weights, case.wanted)
    return [*tops, *by_bottoms, *by_parameters]


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.kind)
def test_a_layer_computes_on_a_gpu_what_it_computes_on_the_cpu(gpu: Gpu, case: Case) -> None:
    caffe.set_mode_cpu()
    here = passes(case)
    caffe.set_device(gpu.index)
    caffe.set_mode_gpu()
    there = passes(case)
    for mine, other in zip(here, there, strict=True):
        np.testing.assert_allclose(other, mine, rtol=1e-9, atol=1e-11)
