"""Nets of many kinds, as public examples write them: each trains on one peer, its loss falls, and it is plain Caffe's.

Loader, ring and solver are real; the nets and their solvers are in tests/nets.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from gossip_caffe.data.source import measure
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec import JobSettings
from tests.net_data import write_colours, write_digits, write_pairs
from tests.one_peer import bare, trained

pytestmark = pytest.mark.integration

NETS = Path(__file__).parents[1] / "nets"
WATCHED = 8


@dataclass(frozen=True, slots=True)
class Kind:
    """A net, its data, for how many iterations it is trained, and to what share of itself its loss falls.

    ``random``: it draws noise or moves its records at random, so plain Caffe's weights are others.
    """

    net: str
    write_data: Callable[[Path], None]
    iterations: int = 60
    falls_to: float = 0.7
    random: bool = False


KINDS = [
    Kind("lenet", write_digits),
    Kind("cifar_quick", write_colours, iterations=120),
    Kind("siamese", write_pairs),
    Kind("siamese_two_sources", write_pairs),
    Kind("autoencoder", write_digits, falls_to=0.9),
    Kind("residual", write_colours),
    Kind("inception", write_colours, iterations=120, random=True),
]


@pytest.mark.parametrize("kind", KINDS, ids=[kind.net for kind in KINDS])
async def test_a_net_of_this_kind_trains_on_one_peer_as_in_plain_caffe(tmp_path: Path, kind: Kind) -> None:
    for name in (f"{kind.net}.prototxt", f"{kind.net}_solver.prototxt"):
        shutil.copy(NETS / name, tmp_path)
    kind.write_data(tmp_path)
    solver = tmp_path / f"{kind.net}_solver.prototxt"
    job = read_job("test", solver, JobSettings(), measure)
    run = await trained(job, kind.iterations, watched=WATCHED)
    first, last = np.mean(run.losses[:WATCHED]), np.mean(run.losses[-WATCHED:])
    assert np.isfinite(run.weights).all()
    assert last < kind.falls_to * first, run.losses
    if not kind.random:
        caffes = bare(solver, kind.iterations, run.layout, tmp_path, run.start)
        assert np.array_equal(run.weights, caffes.weights)
