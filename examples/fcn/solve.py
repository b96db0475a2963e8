"""A script that drives Caffe from Python, as a peer: ``python solve.py ETCD NAME``, as many as you like."""

import sys
from typing import Any

import caffe
from surgery import interpolate, transplant

import gossip_caffe as gc


def make_solver() -> Any:
    """The solver of the net of pixels, which begins with the classifier's weights."""
    solver = caffe.get_solver("solver.prototxt")
    donor = caffe.Net("classifier.prototxt", "classifier.caffemodel", caffe.TEST)
    transplant(solver.net, donor, {"conv1": "conv1", "conv2": "conv2", "conv3": "conv3", "dense": "ip1"})
    interpolate(solver.net, "enlarge")
    return solver


if __name__ == "__main__":
    etcd, name = sys.argv[1:]
    with gc.join(make_solver, etcd=etcd, job="fcn", name=name, run_dir="fleet/run", allow_code=True) as peer:
        while peer.step(20):
            print(f"{name}: loss {float(peer.solver.net.blobs['loss'].data):.4f}", flush=True)
