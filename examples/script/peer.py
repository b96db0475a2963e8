"""A script of one's own as a peer: ``python peer.py HOST:2379``, started as often as you like."""

import sys
from typing import Any

import caffe

import gossip_caffe as gc

FILE = "solver.prototxt"


def make_solver() -> Any:
    """Make the solver; the layer of points.py is told its rank before."""
    solver = caffe.get_solver(FILE)
    solver.net.params["ip1"][0].data[...] *= 0.5  # any surgery: layers loaded, blobs changed
    return solver


with gc.join(
    make_solver, etcd=sys.argv[1], job="points", create=FILE, settings={"layer_ranks": 4}, allow_code=True
) as peer:
    print(f"{peer.name} has rank {peer.rank} of {peer.count}", flush=True)
    while peer.goes_on:
        peer.solver.step(1)  # or peer.step(1), which does both
        peer.exchange_if_due()
print(f"{peer.name}: the job is {'finished' if peer.finished else 'not finished'}", flush=True)
