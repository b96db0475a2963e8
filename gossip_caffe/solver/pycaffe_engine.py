"""The engine that is Caffe. Only the solver process imports this: a CHECK in Caffe aborts the whole process."""

from __future__ import annotations

import contextlib
import operator
import os
from collections.abc import Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import caffe
import numpy as np
from numpy.typing import NDArray

from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import EnvironmentProblem
from gossip_caffe.job.prototxt import Document, edited
from gossip_caffe.job.solver_states import read_state
from gossip_caffe.solver import source_layer
from gossip_caffe.solver.blob_access import BlobAccess, HostBlobs
from gossip_caffe.solver.cards import Cards, no_such_card, refusal
from gossip_caffe.solver.device import card_index
from gossip_caffe.solver.device_blobs import Pointer, device_blobs
from gossip_caffe.solver.engine import EngineSpec
from gossip_caffe.solver.layout import Entry, WeightLayout
from gossip_caffe.solver.trained_net import frozen_parameters, needs_whole_batches, trained_layers

try:
    from caffe import _gossip
except ImportError:  # a pycaffe that is not ours
    _gossip = None

_LOG_LEVEL = "GLOG_minloglevel"
_NO_POINTERS = "this pycaffe does not tell where its blobs are on the card"


class PycaffeEngine:
    """One Caffe solver, on the CPU or on a card. Raises EnvironmentProblem when the pycaffe at hand cannot do that.

    ``remark``: what of it is slower here than it could be, and why; else empty.
    """

    def __init__(self, spec: EngineSpec, ring: BatchRing) -> None:
        card = card_index(spec.device)
        compute_on(card)
        caffe.set_random_seed(spec.seed)
        _draw(spec.seeds_drawn)
        layers = trained_layers(Document(spec.solver_text, "solver").root)
        # Caffe's step does not tell the losses of the passes that it makes, so each is read before the next one.
        self._earlier: list[float] = []
        source_layer.feed_from(
            ring,
            fill_up=needs_whole_batches(layers),
            before_pass=(lambda: self._earlier.append(self._loss())) if spec.iter_size > 1 else None,
        )
        # Without our extension only base_lr can be set, and any other policy would change it once more.
        text = spec.solver_text if _gossip is not None else with_fixed_rate(spec.solver_text)
        self._solver = solver_of(text)
        keep_quiet()
        self._iter_size = spec.iter_size
        self._weights, self._state = spec.weights, spec.state
        parameters = Parameters(self._solver.net, frozen_parameters(layers))
        self._blobs, self.layout = parameters.blobs, parameters.layout
        self._values, self.remark = access_to(self._blobs, self.layout, card)
        self._losses = [
            (blob, weight)
            for blob, weight in zip(self._solver.net._blobs, self._solver.net._blob_loss_weights, strict=True)
            if weight
        ]
        if _gossip is None and not hasattr(getattr(self._solver, "param", None), "base_lr"):
            raise EnvironmentProblem(
                f"the pycaffe at {caffe.__file__} cannot set the learning rate of a step",
                remedy="use the one that 'make pycaffe' builds",
            )

    def read_weights(self, out: NDArray[np.float32]) -> None:
        """Copy the weights out."""
        self._values.read(out)

    def write_weights(self, weights: NDArray[np.float32]) -> None:
        """Replace the weights."""
        self._values.write(weights)

    def add_to_weights(self, correction: NDArray[np.float32]) -> None:
        """Add to the weights."""
        self._values.add(correction)

    def lend(self, memory: NDArray[np.uint8]) -> None:
        """Page-locked where the card copies by itself."""
        self._values.lend(memory)

    def load_first_weights(self) -> None:
        """As ``caffe train --weights`` and ``--snapshot`` do; the state's own path to its weights is not followed."""
        for path in self._weights:
            self._solver.net.copy_from(path)
        if self._state:
            restore(self._solver, self._state)

    def history(self) -> list[NDArray[np.float32]]:
        """The history of the learnable parameters; AdaDelta and Adam have a second round of it.

        On a card it is a copy on the host, made at this call, which the next step takes over with all that was written
        to it; after that step ask again.
        """
        return list(_gossip.history(self._solver)) if _gossip is not None else []

    def load_history(self, path: str) -> None:
        """As ``solver.restore``, but for the weights."""
        restore(self._solver, path)

    def draw_noise_from(self, seed: int) -> None:
        """Seed Caffe's generator: dropout, DummyData and whatever else draws from it."""
        caffe.set_random_seed(seed)

    def step(self, ring: BatchRing, batches: int, learning_rate: float) -> float:
        """One iteration of Caffe's own Step; a short one (see ``_short_step``) when batches are missing."""
        self._set_learning_rate(learning_rate)
        loss = self._short_step(batches) if batches < self._iter_size else self._whole_step()
        if not ring.tops:
            for _ in range(batches):  # no source layer reads it: a batch stands for a pass of the net
                ring.release()
        return loss

    def _whole_step(self) -> float:
        self._earlier.clear()
        if _gossip is not None:
            _gossip.step(self._solver, 1)
        else:
            self._solver.step(1)
        losses = [
            *self._earlier[1:],
            self._loss(),
        ]  # what stood there before the first pass is of the last step
        return sum(losses) / len(losses)

    def _short_step(self, batches: int) -> float:
        """One iteration on fewer passes than iter_size.

        As Solver::Step in solver.cpp; ApplyUpdate divides the gradient by iter_size, so it is scaled up before.
        """
        net = self._solver.net
        for blob in self._blobs:
            blob.diff[...] = 0
        loss = 0.0
        for _ in range(batches):
            net.forward()
            net.backward()
            loss += self._loss() / batches
        for blob in self._blobs:
            blob.diff[...] *= np.float32(self._iter_size / batches)
        self._solver.apply_update()
        if _gossip is not None:
            _gossip.set_iteration(self._solver, self._solver.iter + 1)  # Adam's bias correction counts them
        return loss

    def _set_learning_rate(self, rate: float) -> None:
        if _gossip is not None:
            _gossip.set_learning_rate(self._solver, rate)
        else:
            self._solver.param.base_lr = rate

    def _loss(self) -> float:
        """Sum of what the last pass's losses were, by their loss weights, as Caffe's Net::Forward returns it."""
        return float(sum(weight * blob.data.sum() for blob, weight in self._losses))


def compute_on(card: int | None) -> None:
    """Choose where Caffe computes, before a net is built; None: on the CPU.

    Raises EnvironmentProblem for a card that is not there; a Caffe that is not ours ends the process.
    """
    if card is None:
        caffe.set_mode_cpu()
        return
    if _gossip is not None:
        _check_card(card)
    caffe.set_device(card)
    caffe.set_mode_gpu()


def _check_card(card: int) -> None:
    """Ask our extension before Caffe, whose answer would be the end of the process."""
    found = Cards(caffe.__file__, built=getattr(_gossip, "built_for_cuda", False))
    if found.built:
        try:
            found = replace(found, count=_gossip.device_count())
        except RuntimeError as error:
            found = replace(found, reason=str(error))
    if (problem := refusal(found)) is not None:
        raise problem
    if card >= found.count:
        raise no_such_card(card, found.count)


def access_to(blobs: Sequence[Any], layout: WeightLayout, card: int | None) -> tuple[BlobAccess, str]:
    """The best way to these blobs' values, and why it is not the fastest, if it is not."""
    if card is None:
        return HostBlobs(blobs, layout), ""
    pointer = _pointer_of(blobs)
    access, why_not = device_blobs(blobs, layout, pointer, card) if pointer else (None, _NO_POINTERS)
    return access or HostBlobs(blobs, layout), why_not


def _pointer_of(blobs: Sequence[Any]) -> Pointer | None:
    """How device pointers are had: of our extension, or of BVLC 1.0, which calls them ``_gpu_data_ptr``."""
    if getattr(_gossip, "built_for_cuda", False):
        pointer: Pointer = _gossip.gpu_data_ptr
        return pointer
    return operator.attrgetter("_gpu_data_ptr") if blobs and hasattr(blobs[0], "_gpu_data_ptr") else None


def solver_of(text: str) -> Any:
    """A Caffe solver from a prototxt's text, through anonymous memory: Caffe reads files only.

    A net in ``train_net_param`` is handed over as a file of its own, as the user had it: Caffe upgrades the nets that
    it reads from files (UpgradeNetAsNeeded in upgrade_proto.cpp), and no others.
    """
    root = Document(text, "solver").root
    with contextlib.ExitStack() as files:
        if (entry := root.last("train_net_param")) is not None:
            inner = text[text.index("{", entry.start) + 1 : text.rindex("}", entry.start, entry.end)]
            net = as_file(inner.removeprefix("\n"), "net", files)
            text = edited(text, [(entry.start, entry.end, f'train_net: "{net}"')])
        return caffe.get_solver(as_file(text, "solver", files))


def keep_quiet() -> None:
    """Leave out Caffe's INFO lines from here on, unless the user has set the level.

    While a net is built they say which layer Caffe is at; then they are noise at every step.
    """
    if _gossip is not None and _LOG_LEVEL not in os.environ:
        _gossip.set_log_level(1)


def restore(solver: Any, path: str) -> None:
    """Restore momentum and iteration from a .solverstate, and not the weights, whose path it holds as it once was."""
    state = read_state(Path(path))
    state.ClearField("learned_net")
    with contextlib.ExitStack() as files:
        solver.restore(as_file(state.SerializeToString(), "state", files))


def as_file(content: str | bytes, name: str, files: contextlib.ExitStack) -> str:
    """Path of a file in memory, which is there until ``files`` are closed."""
    fd = os.memfd_create(f"gossip-caffe-{name}", os.MFD_CLOEXEC)
    files.callback(os.close, fd)
    with open(fd, "wb", closefd=False) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return f"/proc/self/fd/{fd}"


def _draw(count: int) -> None:
    """Take numbers from Caffe's generator: its uniform filler takes one for each value."""
    if not count:
        return
    filler = f'dummy_data_param {{ shape {{ dim: {count} }} data_filler {{ type: "uniform" }} }}'
    with contextlib.ExitStack() as files:
        net = f'layer {{ name: "drawn" type: "DummyData" top: "drawn" {filler} }}'
        caffe.Net(as_file(net, "drawing", files), caffe.TRAIN).forward()


def with_fixed_rate(solver_text: str) -> str:
    """The solver with lr_policy "fixed": base_lr is then the rate of every step."""
    document = Document(solver_text, "solver")
    policies = [(field.start, field.end, "") for field in document.root.all("lr_policy")]
    return edited(solver_text, policies) + '\nlr_policy: "fixed"\n'


class Parameters:
    """The parameter blobs of a net, those that no solver changes last, and how they lie in a vector.

    Blobs that share memory (parameters of one name) are one.
    """

    def __init__(self, net: Any, frozen: Set[tuple[str, int]]) -> None:
        by_address: dict[int, list[tuple[str, int, Any]]] = {}
        for layer, parameters in net.params.items():
            for index, blob in enumerate(parameters):
                address = blob.data.__array_interface__["data"][0]
                by_address.setdefault(address, []).append((layer, index, blob))
        groups = sorted(
            by_address.values(), key=lambda group: any((layer, index) in frozen for layer, index, _ in group)
        )
        self.blobs = [group[0][2] for group in groups]
        entries: list[Entry] = [(layer, index, tuple(blob.shape)) for (layer, index, blob), *_ in groups]
        for position, (_, *others) in enumerate(groups):
            entries += [(layer, index, tuple(blob.shape), position) for layer, index, blob in others]
        count = sum(any((layer, index) in frozen for layer, index, _ in group) for group in groups)
        self.layout = WeightLayout.of(entries, count)
