"""Trains the classifier, lets three scripts train the net of pixels as peers, and draws what their consensus sees.

Run it in its folder: cd examples/fcn && python run.py
"""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from shapes import KINDS, picture
from solve import make_solver

import gossip_caffe as gc
from gossip_caffe.demo.checkpoint_keeper import CheckpointKeeper
from gossip_caffe.demo.fleet import Fleet

TESTED = 100


def kinds_of(net: Any, pictures: Any) -> Any:
    """The kind of each pixel, as the net sees it."""
    net.blobs["data"].reshape(*pictures.shape)
    net.blobs["data"].data[...] = pictures
    after_data = net._layer_names[1]  # Caffe puts a Split there: two layers read the pictures
    net.forward(start=after_data, end="crop")
    return net.blobs["kinds"].data.argmax(axis=1)


def mean_iu(found: Any, truth: Any) -> float:
    """Intersection over union, as the mean of all kinds."""
    shares = [
        ((found == kind) & (truth == kind)).sum() / ((found == kind) | (truth == kind)).sum()
        for kind in range(KINDS)
    ]
    return float(np.mean(shares))


def trained(net: Any, pictures: Any, truth: Any, peers: int) -> list[tuple[int, float]]:
    """Let scripts train the job to its end. Returns (iteration, mean IU) of each checkpoint of their consensus."""
    with Fleet(Path("fleet")) as fleet:
        with gc.connect(fleet.etcd, job="fcn") as job:
            settings = {"layer_ranks": peers, "keep_checkpoints": 100}  # all of them are tested in the end
            job.create_job("fcn", "solver.prototxt", settings=settings)
            for number in range(peers):
                fleet.start(f"s{number}", [sys.executable, "solve.py", fleet.etcd, f"s{number}"])
            for event in job.events():
                print(event.words(), flush=True)
        fleet.wait(60)
        keeper = CheckpointKeeper(fleet.run_dir, fleet.run_dir / "weights")
        keeper.collect()
    points = []
    for kept in keeper.kept:
        net.copy_from(str(kept.model))
        # The job has no records to share out, so its samples are passes: as many as iterations.
        points.append((kept.progress_samples, mean_iu(kinds_of(net, pictures), truth)))
        print(f"iteration {points[-1][0]}: mean IU {points[-1][1]:.3f}")
    return points


def draw(points: list[tuple[int, float]], rows: dict[str, Any], to: Path) -> None:
    """Write the picture."""
    figure = Figure(figsize=(10, 4.2), dpi=110, layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.3])
    axes = left.subplots()
    axes.plot(*zip(*points, strict=True), color="#0072b2", marker="o", markersize=4)
    axes.set(xlabel="iterations of the job", ylabel="mean IU of the consensus", xlim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    grid = right.subplots(len(rows), 6)
    for (name, images), line in zip(rows.items(), grid, strict=True):
        line[0].set_ylabel(name, fontsize=9)
        for image, place in zip(images, line, strict=False):
            place.set(xticks=[], yticks=[])
            if name == "picture":
                place.imshow(image, cmap="gray")
            else:
                place.imshow(image, vmin=0, vmax=KINDS - 1)
    figure.savefig(to)


def main() -> None:
    """Run all of it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--peers", type=int, default=3)
    peers = options.parse_args().peers
    result = gc.train("classifier_solver.prototxt", 2, allow_code=True, on_line=print)
    assert result.model is not None
    shutil.copy(result.model, "classifier.caffemodel")

    random = np.random.RandomState(7)
    made = [picture(random.randint(1, KINDS, 3), random, 32) for _ in range(TESTED)]
    pictures, truth = (np.array(part) for part in zip(*made, strict=True))
    solver = make_solver()  # what the peers begin with
    begins = kinds_of(solver.net, pictures)
    points = trained(solver.net, pictures, truth, peers)
    rows = {"picture": pictures.mean(axis=1), "truth": truth, "surgery": begins}
    draw(points, {**rows, "consensus": kinds_of(solver.net, pictures)}, Path("picture.png"))
    print(f"mean IU {points[-1][1]:.3f}; picture.png")


if __name__ == "__main__":
    main()
