"""Who should train which chunk: weighted rendezvous hashing, a pure function of the members and the chunks.

Each member draws a score for each chunk; the highest has it. A member that leaves gives up just its own chunks, one
that joins takes just those on which it outbids (Thaler and Ravishankar 1998; weights by -w / ln(u), Schindelhauer and
Schomaker 2005).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.mixing import mixed, uniform

_WEIGHT_STEP = 2.0 ** (1 / 4)


def quantised(weight: float) -> float:
    """A throughput weight on a scale of quarter octaves, so that noise in a measurement moves no chunk."""
    if not weight > 0:
        return 1.0
    return float(_WEIGHT_STEP ** round(np.log(weight) / np.log(_WEIGHT_STEP)))


def shard(member: str, weights: Mapping[str, float], chunks: int, seed: int) -> NDArray[np.int64]:
    """The chunks planned for ``member``, ascending: shape (n,), n ≈ chunks · w / Σw. Empty for a stranger."""
    if member not in weights:
        return np.empty(0, dtype=np.int64)
    names = sorted(weights)
    owner = owners([weights[name] for name in names], names, chunks, seed)
    return np.flatnonzero(owner == names.index(member))


def owners(weights: list[float], names: list[str], chunks: int, seed: int) -> NDArray[np.int64]:
    """For each chunk the index of the member that has it: shape (chunks,). Ties go to the first name."""
    best = np.full(chunks, -np.inf)
    owner = np.zeros(chunks, dtype=np.int64)
    ids = np.arange(chunks, dtype=np.uint64)
    for index, (name, weight) in enumerate(zip(names, weights, strict=True)):
        score = _scores(name, ids, seed, weight)
        better = score > best
        best[better] = score[better]
        owner[better] = index
    return owner


def _scores(name: str, ids: NDArray[np.uint64], seed: int, weight: float) -> NDArray[np.float64]:
    salt = np.frombuffer(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest(), dtype=np.uint64)[
        0
    ]
    return -weight / np.log(uniform(mixed(ids ^ salt)))
