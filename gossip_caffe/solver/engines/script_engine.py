"""The engine around a solver that a user's script has made, in the script's own process."""

from __future__ import annotations

from typing import Any

import caffe

from gossip_caffe.data.ring import BatchRing
from gossip_caffe.job.prototxts.prototxt import Document
from gossip_caffe.solver.engines.engine import EngineSpec
from gossip_caffe.solver.engines.place import LayerRank
from gossip_caffe.solver.engines.pycaffe_engine import PycaffeEngine
from gossip_caffe.solver.engines.trained_net import trained_layers
from gossip_caffe.solver.engines.user_layers import tell_place


def tell_layers(place: LayerRank) -> None:
    """Set rank, count and seed for the script's own Python layers, of nets that it builds from now on."""
    tell_place(caffe, place)


class ScriptEngine(PycaffeEngine):
    """The user's own solver, trained by the user's own steps or by ``step``. ``gpu``: the GPU's number; None: the CPU.

    ``has_stepped``: the script itself has made the step of which the next ``step`` tells.
    """

    def __init__(self, solver: Any, spec: EngineSpec, gpu: int | None) -> None:
        self.has_stepped = False
        self._weights, self._state, self._tests = (), "", ()
        self._take(solver, trained_layers(Document(spec.solver_text, "solver").root), spec, gpu)

    def load_first_weights(self) -> None:
        """Keep the weights that the script has: it may have loaded or changed them."""

    def draw_noise_from(self, seed: int) -> None:
        """Seed Caffe's generator. Those of ``random`` and ``numpy.random`` are the script's own."""
        caffe.set_random_seed(seed)

    def forget_momentum(self) -> None:
        """Set the momentum to zero: it belongs to weights that were replaced."""
        for blob in self.history():
            blob[...] = 0

    def set_rate(self, learning_rate: float) -> None:
        """Set the learning rate of the script's next step."""
        self._set_learning_rate(learning_rate)

    def step(self, ring: BatchRing, batches: int, learning_rate: float) -> float:
        """Train one iteration, or tell the loss of the one that the script has made, and release its batches."""
        loss = float(self._loss()) if self.has_stepped else self._stepped(batches, learning_rate)
        for _ in range(batches):  # no layer of a script's net reads the ring
            ring.release()
        return loss

    def _stepped(self, batches: int, learning_rate: float) -> float:
        self._set_learning_rate(learning_rate)
        return self._short_step(batches) if batches < self._iter_size else self._whole_step()
