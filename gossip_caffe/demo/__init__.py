"""The demonstration: a small job, a peer that joins, a peer that is killed, and the comparison with plain Caffe."""
