"""The demonstration: a small job, a peer that joins, a peer that is killed, and the comparison with plain Caffe.

The folder also has what the examples share: made-up data, peers as processes, and the figures of their pictures.
"""
