"""Labels are followed through a net as Caffe lays its blobs out: each value is where we say it comes from."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gossip_caffe.job.prototxts.labels.origins import LabelOrigins
from gossip_caffe.job.prototxts.nets import NetState, present
from gossip_caffe.job.prototxts.prototxt import Document
from tests.cluster_run import DEADLINE_S

pytestmark = [pytest.mark.integration, pytest.mark.needs("caffe")]

BATCH = 3
INPUT = 'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'
RUN = """
import sys
import caffe, numpy as np
net = caffe.Net(sys.argv[1], caffe.TEST)
for name in ("one", "two"):
    data = net.blobs[name].data
    data[...] = (np.arange(data.size) % (data.size // len(data))).reshape(data.shape) + (1000 if name == "two" else 0)
net.forward()
np.savez(sys.argv[2], **{name: blob.data for name, blob in net.blobs.items()})
"""


def some_net(seed: int) -> str:
    """Layers that cut, join and reshape at random: each top is of a shape that is known here."""
    rng = random.Random(seed)
    shapes: dict[str, tuple[int, ...]] = {"one": (BATCH, 4, 6, 2), "two": (BATCH, 4, 6, 1)}
    text = ""
    for name, shape in shapes.items():
        text += INPUT.format(name=name, dims=" ".join(f"dim: {size}" for size in shape))
    for number in range(12):
        bottom = rng.choice(list(shapes))
        shape = shapes[bottom]
        axis = rng.randrange(1, len(shape))
        named = rng.choice([axis, axis - len(shape)])
        kind, tops, more, bottoms = (
            rng.choice(["Slice", "Concat", "Reshape", "Flatten", "Split"]),
            [],
            "",
            [bottom],
        )
        if kind == "Slice" and shape[axis] > 1:
            point = rng.randrange(1, shape[axis])
            more = f"slice_param {{ axis: {named} slice_point: {point} }}"
            for part, size in (("a", point), ("b", shape[axis] - point)):
                tops.append((f"{number}{part}", (*shape[:axis], size, *shape[axis + 1 :])))
        elif kind == "Concat":
            alike = [
                name
                for name, other in shapes.items()
                if len(other) == len(shape)
                and (*other[:axis], *other[axis + 1 :]) == (*shape[:axis], *shape[axis + 1 :])
            ]
            bottoms = [bottom, rng.choice(alike)]
            size = sum(shapes[name][axis] for name in bottoms)
            more = f"concat_param {{ axis: {named} }}"
            tops = [(str(number), (*shape[:axis], size, *shape[axis + 1 :]))]
        elif kind == "Reshape" and len(shape) > 2:
            more = f"reshape_param {{ shape {{ dim: 0 dim: -1 }} axis: 0 num_axes: {len(shape)} }}"
            tops = [(str(number), (shape[0], int(np.prod(shape[1:]))))]
        elif kind == "Flatten":
            more = f"flatten_param {{ axis: {named} }}"
            tops = [(str(number), (*shape[:axis], int(np.prod(shape[axis:]))))]
        else:
            kind, tops = "Split", [(f"{number}{part}", shape) for part in "ab"]
        names = " ".join(f'bottom: "{name}"' for name in bottoms) + " "
        names += " ".join(f'top: "{top}"' for top, _ in tops)
        text += f'layer {{ name: "l{number}" type: "{kind}" {names} {more} }}\n'
        shapes.update(tops)
    return text


@pytest.mark.parametrize("seed", range(6))
def test_each_value_of_a_blob_comes_from_where_it_is_said_to(seed: int, tmp_path: Path) -> None:
    text = some_net(seed)
    (tmp_path / "net.prototxt").write_text(text)
    command = [sys.executable, "-c", RUN, "net.prototxt", "blobs.npz"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    blobs = {name: np.array(value) for name, value in np.load(tmp_path / "blobs.npz").items()}
    layers = present(Document(text, "net").root, NetState("TEST"))
    followed = LabelOrigins(layers, {name: blob.shape for name, blob in blobs.items()})
    for layer in layers:
        followed.pass_on(layer)
    for name, blob in blobs.items():
        if "_split_" in name:  # of Caffe's own making
            continue
        said: set[int] = set()
        for (source, _), spans in followed.values_of(name):
            whole = blobs[source][0].size
            ranges = [(span.start, span.stop) for span in spans] or [(0, whole)]
            said |= {
                place + (1000 if source == "two" else 0)
                for start, stop in ranges
                for place in range(start, stop)
            }
        assert said == set(blob.astype(int).reshape(-1).tolist()), (name, text)
