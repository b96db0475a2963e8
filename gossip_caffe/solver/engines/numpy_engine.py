"""A small engine in NumPy, for tests: softmax regression with momentum, on the same ring as Caffe."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.data.ring import BatchRing
from gossip_caffe.solver.engines.engine import EngineSpec, NetOutput
from gossip_caffe.solver.engines.gradients import shorten
from gossip_caffe.solver.engines.layout import WeightLayout

CLASSES = 10
MOMENTUM = 0.9


class NumpyEngine:
    """Softmax regression: the ring's first top holds the inputs, its second top the labels 0 to 9."""

    def __init__(self, spec: EngineSpec, ring: BatchRing) -> None:
        self._features = math.prod(ring.tops[0].shape)
        self.layout = WeightLayout.of([("ip", 0, (CLASSES, self._features)), ("ip", 1, (CLASSES,))])
        rng = np.random.default_rng(spec.seed)
        self._flat = (0.01 * rng.standard_normal(self.layout.size)).astype(np.float32)
        self._velocity = np.zeros_like(self._flat)
        self._limit = self.gradient_length = 0.0

    def read_weights(self, out: NDArray[np.float32]) -> None:
        """Copy the weights to ``out``, shape (layout.size,)."""
        np.copyto(out, self._flat)

    def write_weights(self, weights: NDArray[np.float32]) -> None:
        """Replace the weights by ``weights``, shape (layout.size,)."""
        np.copyto(self._flat, weights)

    def add_to_weights(self, correction: NDArray[np.float32]) -> None:
        """Add ``correction``, shape (layout.exchanged,), to the weights."""
        self._flat += correction

    def lend(self, memory: NDArray[np.uint8]) -> None:
        """Do nothing: the CPU copies the weights."""

    def load_first_weights(self) -> None:
        """Do nothing: this engine reads no files."""

    def history(self) -> list[NDArray[np.float32]]:
        """Return the velocity of both blobs."""
        return list(self.layout.split(self._velocity))

    def load_history(self, path: str) -> None:
        """Do nothing: this engine reads no files."""

    def draw_noise_from(self, seed: int) -> None:
        """Do nothing: training draws no random numbers."""

    def skip(self, passes: int) -> None:
        """Do nothing: this engine makes no data of its own."""

    def clip_gradients(self, limit: float) -> None:
        """Shorten gradients to the length ``limit``; 0.0: no limit, inf: only measure them."""
        self._limit = limit

    def outputs(self) -> list[NetOutput]:
        """Return no outputs: this engine has no net."""
        return []

    def step(self, ring: BatchRing, batches: int, learning_rate: float) -> float:
        """Train one iteration on the next batches of the ring. Returns the mean loss."""
        gradient, loss = np.zeros_like(self._flat), 0.0
        for _ in range(batches):
            batch = ring.take(0.0)
            if batch is None:
                raise RuntimeError("step was called without a batch in the ring")
            loss += self._add_gradient(batch.arrays[0], batch.arrays[1], gradient) / batches
            ring.release()
        if self._limit:
            self.gradient_length = shorten([gradient], self._limit)
        self._velocity *= np.float32(MOMENTUM)
        self._velocity += np.float32(learning_rate / batches) * gradient
        self._flat -= self._velocity
        return loss

    def _add_gradient(
        self, data: NDArray[np.float32], labels: NDArray[np.float32], gradient: NDArray[np.float32]
    ) -> float:
        weights, bias = self.layout.split(self._flat)
        inputs = data.reshape(len(data), self._features)
        scores = inputs @ weights.T + bias
        scores -= scores.max(axis=1, keepdims=True)
        shares = np.exp(scores)
        shares /= shares.sum(axis=1, keepdims=True)
        rows, truth = np.arange(len(data)), labels.astype(np.int64)
        loss = float(-np.log(np.maximum(shares[rows, truth], 1e-20)).mean())
        shares[rows, truth] -= 1
        shares /= len(data)
        for total, part in zip(
            self.layout.split(gradient), (shares.T @ inputs, shares.sum(axis=0)), strict=True
        ):
            np.add(total, part, out=total)
        return loss
