"""Do groups of four that average beat pairs, at equal bytes? A model in NumPy, on scikit-learn's digits.

    python benchmarks/groups.py [--peers 8,16] [--seeds 5] [--every 8] [--epochs 30]

Peers train a small net by SGD with momentum, each on its own part of the records, and average at random: all of them in
pairs every so many iterations, or in groups of four. A pair costs each of its peers one model, a group of four
2 * 3 / 4 = 1.5 models by a ring. So groups meet 1.5 times less often. docs/internals/benchmarks.md says what each
figure means.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.demo import digits

Flat = NDArray[np.float32]

HIDDEN, CLASSES, BATCH = 64, 10, 16
RATE, MOMENTUM, DECAY = 0.05, 0.9, 5e-4


@dataclass(frozen=True, slots=True)
class Records:
    """Records, shape (records, values), and their labels."""

    values: Flat
    labels: NDArray[np.int64]


def gradient(weights: Flat, records: Records) -> Flat:
    """The gradient of the loss of a net with one hidden layer."""
    width = records.values.shape[1]
    first = weights[: width * HIDDEN].reshape(width, HIDDEN)
    second = weights[width * HIDDEN :].reshape(HIDDEN, CLASSES)
    hidden = np.maximum(records.values @ first, 0.0)
    scores = hidden @ second
    scores -= scores.max(axis=1, keepdims=True)
    shares = np.exp(scores)
    shares /= shares.sum(axis=1, keepdims=True)
    shares[np.arange(len(shares)), records.labels] -= 1.0
    shares /= np.float32(len(shares))
    back = (shares @ second.T) * (hidden > 0.0)
    return np.concatenate(((records.values.T @ back).ravel(), (hidden.T @ shares).ravel()))


def accuracy(weights: Flat, records: Records) -> float:
    """Percent of the records that are told right."""
    width = records.values.shape[1]
    hidden = np.maximum(records.values @ weights[: width * HIDDEN].reshape(width, HIDDEN), 0.0)
    told = (hidden @ weights[width * HIDDEN :].reshape(HIDDEN, CLASSES)).argmax(axis=1)
    return 100.0 * float((told == records.labels).mean())


def trained(
    train: Records, test: Records, *, peers: int, group: int, every: float, epochs: float, seed: int
) -> tuple[float, float]:
    """The accuracy of the mean of all peers at the end, and the mean consensus distance after each iteration."""
    rng = np.random.default_rng(seed)
    width = train.values.shape[1]
    start = np.concatenate(
        (
            rng.normal(0.0, width**-0.5, width * HIDDEN),
            rng.normal(0.0, HIDDEN**-0.5, HIDDEN * CLASSES),
        )
    )
    weights = np.tile(start.astype(np.float32), (peers, 1))
    moved = np.zeros_like(weights)
    parts = np.array_split(rng.permutation(len(train.labels)), peers)
    iterations, due, distances = int(epochs * len(train.labels) / (peers * BATCH)), every, []
    for iteration in range(1, iterations + 1):
        rate = RATE * (1.0 - 0.9 * iteration / iterations)
        for peer in range(peers):
            chosen = rng.choice(parts[peer], BATCH)
            slope = gradient(weights[peer], Records(train.values[chosen], train.labels[chosen]))
            moved[peer] = MOMENTUM * moved[peer] + rate * (slope + DECAY * weights[peer])
            weights[peer] -= moved[peer]
        if iteration >= due:
            due += every
            for members in rng.permutation(peers).reshape(-1, group):
                weights[members] = weights[members].mean(axis=0)
        mean = weights.mean(axis=0)
        distances.append(float(((weights - mean) ** 2).sum(axis=1).mean() / (mean @ mean)))
    return accuracy(weights.mean(axis=0), test), statistics.mean(distances)


def records(part: digits.Digits) -> Records:
    """Records with values from 0 to 1."""
    values = part.images.reshape(len(part), -1).astype(np.float32) / np.float32(digits.PIXEL_MAX)
    return Records(values, part.labels)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", default="8,16", help="multiples of four, with commas")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--every", type=int, default=8, help="iterations between two meetings of pairs")
    parser.add_argument("--epochs", type=float, default=30.0)
    options = parser.parse_args()
    train, test = map(records, digits.split(digits.load_digits(), seed=1))
    told: dict[str, float] = {"seeds": options.seeds, "every": options.every}
    for peers in map(int, options.peers.split(",")):
        found = {
            name: [
                trained(
                    train,
                    test,
                    peers=peers,
                    group=group,
                    every=every,
                    epochs=options.epochs * peers / 8,
                    seed=seed,
                )
                for seed in range(options.seeds)
            ]
            for name, group, every in (
                ("pairs", 2, float(options.every)),
                ("groups", 4, 1.5 * options.every),
                ("all", peers, options.every * 2 * (peers - 1) / peers),
            )
        }
        for name, results in found.items():
            told[f"accuracy_{name}_{peers}"] = statistics.mean(result[0] for result in results)
            told[f"distance_{name}_{peers}"] = statistics.mean(result[1] for result in results)
        gains = [ours[0] - pair[0] for ours, pair in zip(found["groups"], found["pairs"], strict=True)]
        told[f"gain_points_{peers}"] = statistics.mean(gains)
        told[f"gain_points_{peers}_error"] = statistics.stdev(gains) / len(gains) ** 0.5
        told[f"distance_ratio_{peers}"] = told[f"distance_groups_{peers}"] / told[f"distance_pairs_{peers}"]
    for name, value in told.items():
        print(f"{name:28} {value:.5g}")
    print(f"RESULT {json.dumps({name: round(value, 6) for name, value in told.items()})}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
