"""Draws the losses and the test accuracies in logs of ``gossip-caffe train --log FILE``, or of Caffe itself.

    python examples/draw.py --to picture.png [--title TITLE] [NAME=]LOG[,LOG…] …

Each argument is a curve; several logs of one curve are those of runs that continue each other.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#c1121f")
QUIET = "#555555"
_LOSS = re.compile(r"\] Iteration (\d+)\b.*, loss = (\S+)")
_TEST = re.compile(r"\] Iteration (\d+), Testing net")
_ACCURACY = re.compile(r"Test net output #\d+: accuracy = (\S+)")

Points = list[tuple[int, float]]


def points_of(log: Path) -> tuple[Points, Points]:
    """The losses and the accuracies in a log: (iteration, value), by iteration."""
    losses: Points = []
    accuracies: Points = []
    tested = 0
    for line in log.read_text(encoding="utf-8").splitlines():
        if found := _LOSS.search(line):
            losses.append((int(found[1]), float(found[2])))
        elif found := _TEST.search(line):
            tested = int(found[1])
        elif found := _ACCURACY.search(line):
            accuracies.append((tested, float(found[1])))
    return sorted(losses), sorted(accuracies)


def draw(curves: dict[str, list[Path]], title: str, to: Path) -> None:
    """Write the picture, a PNG."""
    figure = Figure(figsize=(10, 4.2), dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold", x=0.015, ha="left")
    left, right = figure.subplots(1, 2)
    for (name, logs), colour in zip(curves.items(), COLOURS, strict=False):
        parts = [points_of(log) for log in logs]
        losses = [point for part in parts for point in part[0]]
        accuracies = [point for part in parts for point in part[1]]
        left.plot(*zip(*losses, strict=True), color=colour, linewidth=1.4, label=name)
        if accuracies:
            said = f"{name}: {accuracies[-1][1]:.1%}" if name else f"{accuracies[-1][1]:.1%}"
            right.plot(*zip(*accuracies, strict=True), color=colour, marker="o", markersize=4, label=said)
        for part in parts[:-1]:
            for axes in (left, right):
                axes.axvline(part[0][-1][0], color="#999999", linewidth=0.8, linestyle=":")
    left.set(xlabel="iterations of the job", ylabel="loss of a batch")
    right.set(xlabel="iterations of the job", ylabel="test accuracy of the consensus")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9, colors=QUIET)
        axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
        axes.set_xlim(left=0)
    right.legend(loc="lower right", frameon=False, fontsize=10)
    to.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(to)


def main() -> None:
    """Draw what the command line names."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("curves", nargs="+", metavar="[NAME=]LOG[,LOG…]")
    options.add_argument("--to", type=Path, required=True)
    options.add_argument("--title", default="")
    given = options.parse_args()
    curves = {}
    for curve in given.curves:
        name, _, logs = curve.rpartition("=")
        curves[name] = [Path(log) for log in logs.split(",")]
    draw(curves, given.title, given.to)
    print(given.to)


if __name__ == "__main__":
    main()
