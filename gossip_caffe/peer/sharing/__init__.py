"""The sharing of weights by a peer: when, with which partner, and whether the weights are healthy."""
