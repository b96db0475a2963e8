"""The engine that runs Caffe. Only the solver process imports this: a CHECK in Caffe aborts the whole process."""

from __future__ import annotations

import contextlib
import operator
import os
import random
from collections.abc import Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import caffe
import numpy as np
from numpy.typing import NDArray

from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import EnvironmentProblem
from gossip_caffe.job.prototxts.nets import Layer, NetState, present
from gossip_caffe.job.prototxts.prototxt import Document, edited
from gossip_caffe.job.prototxts.rewriting import net_to_feed
from gossip_caffe.job.prototxts.solver_states import read_state
from gossip_caffe.job.spec.spec import NetTest
from gossip_caffe.solver.engines import source_layer
from gossip_caffe.solver.engines.blob_access import BlobAccess, HostBlobs
from gossip_caffe.solver.engines.device_blobs import Pointer, device_blobs
from gossip_caffe.solver.engines.engine import EngineSpec, NetOutput, seeds_drawn
from gossip_caffe.solver.engines.gradients import Gradients
from gossip_caffe.solver.engines.layout import Entry, WeightLayout
from gossip_caffe.solver.engines.net_structure import structure_of
from gossip_caffe.solver.engines.trained_net import frozen_parameters, needs_whole_batches, trained_layers
from gossip_caffe.solver.engines.user_layers import skip_passes, tell_place
from gossip_caffe.solver.gpu.device import gpu_index
from gossip_caffe.solver.gpu.gpus import Gpus, no_such_gpu, refusal

try:
    from caffe import _gossip
except ImportError:  # a pycaffe that 'make pycaffe' did not build
    _gossip = None

_LOG_LEVEL = "GLOG_minloglevel"
_NO_POINTERS = "this pycaffe does not give the addresses of its blobs on the GPU"


class PycaffeEngine:
    """One Caffe solver, on the CPU or on a GPU.

    ``remark``: the reason why copies are slower than they could be; empty when they are not. Raises EnvironmentProblem
    when the installed pycaffe cannot train on that device or cannot set the learning rate of a step.
    """

    def __init__(self, spec: EngineSpec, ring: BatchRing) -> None:
        gpu = gpu_index(spec.device)
        compute_on(gpu)
        tell_place(caffe, spec.place)
        caffe.set_random_seed(spec.seed)
        _draw(spec.seeds_drawn)
        layers = trained_layers(Document(spec.solver_text, "solver").root)
        self._earlier: list[np.float32] = []
        source_layer.feed_from(
            ring,
            fill_up=needs_whole_batches(layers),
            before_pass=(lambda: self._earlier.append(self._loss())) if spec.iter_size > 1 else None,
        )
        # Without the extension _gossip only base_lr can be set, and any policy but "fixed" would change the rate again.
        text = spec.solver_text if _gossip is not None else with_fixed_rate(spec.solver_text)
        if spec.debug_info and spec.display:
            text += (
                f"\ndisplay: {spec.display}\n"  # Caffe prints debug_info only in iterations that it displays
            )
        solver = solver_of(text)
        if not spec.debug_info:
            keep_quiet()
        self._weights, self._state, self._tests = spec.weights, spec.state, spec.tests
        self._take(solver, layers, spec, gpu)

    def _take(self, solver: Any, layers: Sequence[Layer], spec: EngineSpec, gpu: int | None) -> None:
        """Take over a solver whose net has these ``layers``."""
        # Caffe's step does not return the losses of its passes, so each loss is read before the next pass.
        self._earlier = getattr(self, "_earlier", [])
        self._solver = solver
        self._iter_size = spec.iter_size
        parameters = Parameters(self._solver.net, frozen_parameters(layers))
        self._blobs = parameters.blobs
        self.layout = replace(parameters.layout, structure=structure_of(self._solver.net, spec.sources))
        self._values, self.remark = access_to(self._blobs, self.layout, gpu)
        self._gradients = Gradients(self._blobs)
        self._has_callback = False
        self._losses = [
            (blob, weight)
            for blob, weight in zip(self._solver.net._blobs, self._solver.net._blob_loss_weights, strict=True)
            if weight
        ]
        if _gossip is None and not hasattr(getattr(self._solver, "param", None), "base_lr"):
            raise EnvironmentProblem(
                f"the pycaffe at {caffe.__file__} cannot set the learning rate of a step",
                remedy="use the pycaffe that 'make pycaffe' builds",
            )

    def read_weights(self, out: NDArray[np.float32]) -> None:
        """Copy the weights to ``out``, shape (layout.size,)."""
        self._values.read(out)

    def write_weights(self, weights: NDArray[np.float32]) -> None:
        """Replace the weights by ``weights``, shape (layout.size,)."""
        self._values.write(weights)

    def add_to_weights(self, correction: NDArray[np.float32]) -> None:
        """Add ``correction``, shape (layout.exchanged,), to the weights."""
        self._values.add(correction)

    def lend(self, memory: NDArray[np.uint8]) -> None:
        """Lock the memory's pages if the GPU itself copies to them."""
        self._values.lend(memory)

    def load_first_weights(self) -> None:
        """Load files as ``caffe train --weights`` and ``--snapshot`` do, but not the weights that the state names.

        First it draws the random numbers that plain Caffe's test nets draw when they are built, which happens right
        after the trained net is built.
        """
        for test in self._tests:
            _draw_as_built(test)
        for path in self._weights:
            self._solver.net.copy_from(path)
        if self._state:
            restore(self._solver, self._state)

    def history(self) -> list[NDArray[np.float32]]:
        """Return the history of the learnable parameters; AdaDelta and Adam have a second blob for each.

        On a GPU the views are a copy on the host, made by this call. The next step takes over all that was written to
        them; after that step call ``history`` again.
        """
        return list(_gossip.history(self._solver)) if _gossip is not None else []

    def load_history(self, path: str) -> None:
        """Load a .solverstate as ``solver.restore`` does, but without its weights."""
        restore(self._solver, path)

    def draw_noise_from(self, seed: int) -> None:
        """Seed all generators from which layers draw: Caffe's, and those of ``random`` and ``numpy.random``.

        Python layers of public models seed the last two in their ``setup``, with the same seed on every peer.
        """
        caffe.set_random_seed(seed)
        random.seed(seed)
        np.random.seed(seed)

    def skip(self, passes: int) -> None:
        """Skip passes by the method ``skip_passes`` of the net's own Python layers. Raises ModelError when it fails."""
        skip_passes(self._solver.net, passes)

    @property
    def gradient_length(self) -> float:
        """The length of the last step's gradient before it was clipped; 0.0 before ``clip_gradients`` was called."""
        return self._gradients.length

    def clip_gradients(self, limit: float) -> None:
        """Shorten gradients to ``limit`` before Caffe's own clip_gradients; 0.0: no limit, inf: only measure them."""
        self._gradients.limit = limit
        if not self._has_callback:  # Caffe has no way to take a callback back
            self._solver.add_callback(lambda: None, self._gradients.clip)
            self._has_callback = True

    def outputs(self) -> list[NetOutput]:
        """Return copies of the net's output blobs, with their loss weights."""
        net = self._solver.net
        weights = dict(zip(net._blob_names, net._blob_loss_weights, strict=True))
        return [
            NetOutput(name, net.blobs[name].data.reshape(-1).copy(), float(weights[name]))
            for name in net.outputs
        ]

    def step(self, ring: BatchRing, batches: int, learning_rate: float) -> float:
        """Train one iteration by Caffe's own Step, or by ``_short_step`` when ``batches`` is less than iter_size."""
        self._set_learning_rate(learning_rate)
        loss = self._short_step(batches) if batches < self._iter_size else self._whole_step()
        if not ring.tops:
            for _ in range(batches):  # no source layer reads the ring: a batch counts a pass of the net
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
        ]  # the first entry was read before the first pass: it is the last step's loss
        return float(sum(losses, np.float32(0)) / np.float32(len(losses)))

    def _short_step(self, batches: int) -> float:
        """Train one iteration with fewer passes than iter_size, as Solver::Step in solver.cpp.

        ApplyUpdate divides the gradient by iter_size, so the gradient is scaled up before.
        """
        net = self._solver.net
        for blob in self._blobs:
            blob.diff[...] = 0
        loss = 0.0
        for _ in range(batches):
            net.forward()
            net.backward()
            loss += float(self._loss()) / batches
        for blob in self._blobs:
            blob.diff[...] *= np.float32(self._iter_size / batches)
        self._gradients.clip()  # Caffe's callbacks are called in Step only
        self._solver.apply_update()
        if _gossip is not None:
            _gossip.set_iteration(
                self._solver, self._solver.iter + 1
            )  # Adam's bias correction uses the iteration
        return loss

    def _set_learning_rate(self, rate: float) -> None:
        if _gossip is not None:
            _gossip.set_learning_rate(self._solver, rate)
        else:
            self._solver.param.base_lr = rate

    def _loss(self) -> np.float32:
        """Return the weighted sum of the last pass's losses, as Caffe's Net::Forward returns it."""
        return sum(
            (np.float32(weight) * np.float32(blob.data.sum()) for blob, weight in self._losses), np.float32(0)
        )


def compute_on(gpu: int | None) -> None:
    """Let Caffe compute on this GPU (None: on the CPU); call it before a net is built.

    Raises EnvironmentProblem when there is no such GPU. A Caffe without the extension _gossip ends the process instead.
    """
    if gpu is None:
        caffe.set_mode_cpu()
        return
    if _gossip is not None:
        _check_gpu(gpu)
    caffe.set_device(gpu)
    caffe.set_mode_gpu()


def _check_gpu(gpu: int) -> None:
    """Ask the extension _gossip for the GPU first: Caffe would end the process."""
    found = Gpus(caffe.__file__, built=getattr(_gossip, "built_for_cuda", False))
    if found.built:
        try:
            found = replace(found, count=_gossip.device_count())
        except RuntimeError as error:
            found = replace(found, reason=str(error))
    if (problem := refusal(found)) is not None:
        raise problem
    if gpu >= found.count:
        raise no_such_gpu(gpu, found.count)


def access_to(blobs: Sequence[Any], layout: WeightLayout, gpu: int | None) -> tuple[BlobAccess, str]:
    """Return the fastest access to these blobs' values that works, and the reason if a faster one does not work."""
    if gpu is None:
        return HostBlobs(blobs, layout), ""
    pointer = _pointer_of(blobs)
    access, why_not = device_blobs(blobs, layout, pointer, gpu) if pointer else (None, _NO_POINTERS)
    return access or HostBlobs(blobs, layout), why_not


def _pointer_of(blobs: Sequence[Any]) -> Pointer | None:
    """Return the function for device pointers: the extension's, or BVLC 1.0's ``_gpu_data_ptr``, or None."""
    if getattr(_gossip, "built_for_cuda", False):
        pointer: Pointer = _gossip.gpu_data_ptr
        return pointer
    return operator.attrgetter("_gpu_data_ptr") if blobs and hasattr(blobs[0], "_gpu_data_ptr") else None


def solver_of(text: str) -> Any:
    """Make a Caffe solver from a prototxt's text, through a file in memory, because Caffe only reads files.

    A net in ``train_net_param`` becomes a file of its own, as the user had it: Caffe upgrades only nets that it reads
    from files (UpgradeNetAsNeeded in upgrade_proto.cpp).
    """
    root = Document(text, "solver").root
    with contextlib.ExitStack() as files:
        if (entry := root.last("train_net_param")) is not None:
            inner = text[text.index("{", entry.start) + 1 : text.rindex("}", entry.start, entry.end)]
            net = as_file(inner.removeprefix("\n"), "net", files)
            text = edited(text, [(entry.start, entry.end, f'train_net: "{net}"')])
        return caffe.get_solver(as_file(text, "solver", files))


def keep_quiet() -> None:
    """Suppress Caffe's INFO lines from now on, unless the user has set the level.

    While a net is built they tell at which layer Caffe is; afterwards they would be printed at every step.
    """
    if _gossip is not None and _LOG_LEVEL not in os.environ:
        _gossip.set_log_level(1)


def speak_again() -> None:
    """Print Caffe's INFO lines from here on, unless the user has set the level."""
    if _gossip is not None and _LOG_LEVEL not in os.environ:
        _gossip.set_log_level(0)


def restore(solver: Any, path: str) -> None:
    """Restore momentum and iteration from a .solverstate, not the weights: its path to them may be out of date."""
    state = read_state(Path(path))
    state.ClearField("learned_net")
    with contextlib.ExitStack() as files:
        solver.restore(as_file(state.SerializeToString(), "state", files))


def as_file(content: str | bytes, name: str, files: contextlib.ExitStack) -> str:
    """Write ``content`` to a file in memory. Returns its path, which is valid until ``files`` are closed."""
    fd = os.memfd_create(f"gossip-caffe-{name}", os.MFD_CLOEXEC)
    files.callback(os.close, fd)
    with open(fd, "wb", closefd=False) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return f"/proc/self/fd/{fd}"


def _draw(count: int) -> None:
    """Draw ``count`` numbers from Caffe's generator: its uniform filler draws one for each value."""
    if not count:
        return
    filler = f'dummy_data_param {{ shape {{ dim: {count} }} data_filler {{ type: "uniform" }} }}'
    with contextlib.ExitStack() as files:
        net = f'layer {{ name: "drawn" type: "DummyData" top: "drawn" {filler} }}'
        caffe.Net(as_file(net, "drawing", files), caffe.TRAIN).forward()


def _draw_as_built(test: NetTest) -> None:
    """Draw from Caffe's generator as a test net does: seeds for its data layers, and weights before they are shared.

    See Solver::InitTestNets. The net is built without data, and freed at once.
    """
    _draw(sum(seeds_drawn(layer.source, testing=True) for layer in test.fed))
    document = Document(test.text, "the TEST net")
    layers = present(document.root, NetState("TEST", test.level, frozenset(test.stages)))
    with contextlib.ExitStack() as files:
        path = as_file(net_to_feed(document, layers, test.fed), "net", files)
        caffe.Net(path, caffe.TEST, level=test.level, stages=list(test.stages))


def with_fixed_rate(solver_text: str) -> str:
    """Return the solver's text with lr_policy "fixed": base_lr is then the learning rate of every step."""
    document = Document(solver_text, "solver")
    policies = [(field.start, field.end, "") for field in document.root.all("lr_policy")]
    return edited(solver_text, policies) + '\nlr_policy: "fixed"\n'


class Parameters:
    """The parameter blobs of a net and their layout. The blobs that no solver changes come last.

    ``frozen``: those blobs, as (layer, index). Blobs that share memory (parameters with the same name) are one blob.
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
