"""The layers that this project's pycaffe adds: outputs against NumPy, gradients against differences in float64."""

from __future__ import annotations

import math

import caffe
import numpy as np
import pytest

from tests.added_layers import Array, Checked, added_layers, check_gradients

pytestmark = [pytest.mark.integration, added_layers()]

RNG = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def on_the_cpu() -> None:
    caffe.set_mode_cpu()


def layer(kind: str, param: str, bottoms: int = 1, tops: int = 1) -> str:
    """The text of a layer, with names for its blobs."""
    names = [f'bottom: "b{b}"' for b in range(bottoms)] + [f'top: "t{t}"' for t in range(tops)]
    return f'name: "it" type: "{kind}" {" ".join(names)} {param}'


@pytest.mark.parametrize("beta", [1.0, 0.3, 2.5])
def test_swish_is_x_times_the_sigmoid_of_beta_x(beta: float) -> None:
    checked = Checked(layer("Swish", f"swish_param {{ beta: {beta} }}"))
    x = RNG.normal(size=(2, 3, 4)) * 3
    (y,) = checked.forward([x])
    np.testing.assert_allclose(y, x / (1 + np.exp(-np.float32(beta) * x)), rtol=1e-12)
    check_gradients(checked, [x], [True])


def test_clip_keeps_values_between_its_bounds_and_their_gradients() -> None:
    checked = Checked(layer("Clip", "clip_param { min: -0.5 max: 1 }"))
    x = RNG.normal(size=(3, 5))
    (y,) = checked.forward([x])
    assert np.array_equal(y, np.clip(x, -0.5, 1))
    check_gradients(checked, [x], [True])
    # At a bound itself, where no difference can tell, the gradient passes, as in BVLC 1.0.
    found, _ = checked.gradients([np.array([[-0.5, 1.0, 1.5]])], [np.ones((1, 3))], [True])
    assert found[0].tolist() == [[1.0, 1.0, 0.0]]


def rounded(value: float) -> int:
    """C's round: halves away from 0."""
    return int(math.floor(abs(value) + 0.5) * (1 if value >= 0 else -1))


def roi_pooled(features: Array, regions: Array, height: int, width: int, scale: float) -> Array:
    """ROIPooling after the paper, cell by cell."""
    pooled = np.zeros((len(regions), features.shape[1], height, width))
    for r, region in enumerate(regions):
        image = features[int(region[0])]
        x1, y1, x2, y2 = (rounded(corner * scale) for corner in region[1:])
        cell_h, cell_w = max(y2 - y1 + 1, 1) / height, max(x2 - x1 + 1, 1) / width
        for h, w in np.ndindex(height, width):
            top, bottom = y1 + math.floor(h * cell_h), y1 + math.ceil((h + 1) * cell_h)
            left, right = x1 + math.floor(w * cell_w), x1 + math.ceil((w + 1) * cell_w)
            cell = image[:, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
            if cell[0].size:
                pooled[r, :, h, w] = cell.max(axis=(1, 2))
    return pooled


def test_roi_pooling_takes_the_maximum_of_each_cell() -> None:
    text = layer("ROIPooling", "roi_pooling_param { pooled_h: 3 pooled_w: 2 spatial_scale: 0.25 }", bottoms=2)
    features: Array = RNG.permutation(2 * 2 * 6 * 7).astype(np.float64).reshape(2, 2, 6, 7) / 64
    regions = np.array(
        [
            [0, 0, 0, 27, 23],  # the whole image
            [1, 6, 2, 14, 10],  # corners that round up and down
            [0, 20, 20, 19, 19],  # turned around: one place
            [1, 100, 100, 120, 130],  # outside: zeros
            [0, -20, -8, 12, 60],  # across the edges
        ],
        dtype=np.float64,
    )
    checked = Checked(text)
    (pooled,) = checked.forward([features, regions])
    np.testing.assert_array_equal(pooled, roi_pooled(features, regions, 3, 2, 0.25))
    assert not pooled[3].any()
    check_gradients(checked, [features, regions], [True, False])
    # Regions that a layer made get zeros: there is no way back to it, and it may ask for one.
    _, asked = checked.gradients([features, regions], [np.ones_like(pooled)], [True, True])[0]
    assert not asked.any()


@pytest.mark.parametrize("sigma", [1.0, 3.0])
@pytest.mark.parametrize("bottoms", [2, 3, 4])
def test_smooth_l1_loss_is_quadratic_near_0_and_weighted_inside_and_outside(
    bottoms: int, sigma: float
) -> None:
    text = layer("SmoothL1Loss", f"smooth_l1_loss_param {{ sigma: {sigma} }}", bottoms)
    shape = (4, 3, 2, 2)
    blobs = [RNG.normal(size=shape), RNG.normal(size=shape)]
    blobs += [RNG.uniform(-1, 2, size=shape) for _ in range(bottoms - 2)]
    inside, outside = (blobs[b] if bottoms > b else np.ones(shape) for b in (2, 3))
    d = inside * (blobs[0] - blobs[1])
    quadratic = np.abs(d) < 1 / sigma**2
    assert 0 < quadratic.sum() < quadratic.size
    error = np.where(quadratic, (sigma * d) ** 2 / 2, np.abs(d) - 0.5 / sigma**2)
    checked = Checked(text)
    (loss,) = checked.forward(blobs)
    np.testing.assert_allclose(loss, (outside * error).sum() / 4, rtol=1e-12)
    check_gradients(checked, blobs, [True, True] + [False] * (bottoms - 2))


def test_center_loss_pulls_features_to_centers_and_centers_to_features() -> None:
    text = layer(
        "CenterLoss", 'center_loss_param { num_output: 4 center_filler { type: "xavier" } }', bottoms=2
    )
    features, labels = RNG.normal(size=(6, 5)), np.array([2.0, 0, 2, 1, 2, 0])
    centers = RNG.normal(size=(4, 5))
    checked = Checked(text, [centers])
    distance = features - centers[labels.astype(int)]
    (loss,) = checked.forward([features, labels])
    np.testing.assert_allclose(loss, (distance**2).sum() / 12, rtol=1e-12)
    check_gradients(checked, [features, labels], [True, False])
    # Equation 4 of the paper: no gradient of the loss, and not scaled by its weight.
    for weight in (1.0, 0.008):
        _, (found,) = checked.gradients([features, labels], [np.array(weight)], [True, False])
        expected = np.zeros_like(centers)
        for j in range(4):
            members = labels == j
            expected[j] = -distance[members].sum(axis=0) / (1 + members.sum())
        np.testing.assert_allclose(found, expected, rtol=1e-12)


MARGINS = {1: "SINGLE", 2: "DOUBLE", 3: "TRIPLE", 4: "QUADRUPLE"}


def margin_layer(margin: int, more: str = "") -> str:
    """A MarginInnerProduct layer of 5 classes."""
    param = f'num_output: 5 type: {MARGINS[margin]} weight_filler {{ type: "xavier" }} {more}'
    return layer("MarginInnerProduct", f"margin_inner_product_param {{ {param} }}", bottoms=2, tops=2)


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("base", [0.0, 1.5])
def test_margin_inner_product_multiplies_the_angle_to_the_labels_row(margin: int, base: float) -> None:
    features, labels = RNG.normal(size=(12, 3)), RNG.integers(0, 5, 12).astype(np.float64)
    rows = RNG.normal(size=(5, 3))
    checked = Checked(margin_layer(margin, f"base: {base}"), [rows])
    outputs, strength = checked.forward([features, labels])
    assert strength.item() == base
    lengths = np.linalg.norm(features, axis=1)
    cosines = features @ (rows / np.linalg.norm(rows, axis=1)[:, None]).T / lengths[:, None]
    expected = cosines * lengths[:, None]
    mine = np.arange(12), labels.astype(int)
    angles = np.arccos(cosines[mine])
    steps = np.floor(margin * angles / np.pi)
    if margin > 1:
        assert len(set(steps)) > 1
    psi = (-1) ** steps * np.cos(margin * angles) - 2 * steps
    expected[mine] = lengths * (base * cosines[mine] + psi) / (1 + base)
    np.testing.assert_allclose(outputs, expected, rtol=1e-9, atol=1e-12)
    # In training the rows are left 1 long, and the gradient is that of rows 1 long. The second top is a constant.
    left = checked.layer.parameters()[0]
    np.testing.assert_allclose(left, rows / np.linalg.norm(rows, axis=1)[:, None], rtol=1e-12)
    checked = Checked(margin_layer(margin, f"base: {base}"), [left])
    check_gradients(checked, [features, labels], [True, False], parameters=True)


def test_the_strength_of_the_plain_cosine_falls_with_the_passes_down_to_its_least() -> None:
    checked = Checked(margin_layer(4, "base: 1000 gamma: 0.5 power: 2 iteration: 3 lambda_min: 20"))
    blobs = [RNG.normal(size=(2, 3)), np.array([1.0, 4.0])]
    found = [checked.forward(blobs)[1].item() for _ in range(20)]
    np.testing.assert_allclose(
        found, [max(20.0, 1000 * (1 + 0.5 * (3 + t)) ** -2.0) for t in range(1, 21)], rtol=1e-6
    )
    assert found[-1] == 20.0


def test_dropout_scales_in_training_or_else_in_the_test() -> None:
    x = RNG.normal(size=(50, 20)) + 5
    for phase, scaled, factors in (
        ("TRAIN", "true", {0.0, 4.0}),
        ("TRAIN", "false", {0.0, 1.0}),
        ("TEST", "true", {1.0}),
        ("TEST", "false", {0.25}),
    ):
        param = f"phase: {phase} dropout_param {{ dropout_ratio: 0.75 scale_train: {scaled} }}"
        checked = Checked(layer("Dropout", param))
        (y,) = checked.forward([x])
        assert set(np.unique(np.round(y / x, 12))) == factors
        (found,), _ = checked.gradients([x], [np.ones_like(x)], [True])
        assert set(np.unique(np.round(found, 12))) == factors


@pytest.mark.parametrize(("param", "side"), [("", 3), ("round_mode: FLOOR", 2), ("ceil_mode: false", 2)])
def test_pooling_rounds_its_outputs_size_as_either_name_of_the_mode_says(param: str, side: int) -> None:
    text = layer("Pooling", f"pooling_param {{ pool: MAX kernel_size: 2 stride: 2 {param} }}")
    (pooled,) = Checked(text).forward([RNG.normal(size=(1, 1, 5, 5))])
    assert pooled.shape == (1, 1, side, side)
