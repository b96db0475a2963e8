"""The exchange without a network: pairwise, symmetric, and applied whole or not at all (docs/internals/protocol.md).

``LocalPeer`` is one peer in all its exchanges. ``Offering`` makes its own offers, through a ``Transport``.
``Answering`` answers the offers of other peers, as an ``Answerer``. No training step waits for either.

Weights are read and changed in the event loop's thread only. Arithmetic on a large model runs through ``offload`` or in
the transport's threads, on vectors that belong to one exchange. Anything may change during an ``await``, so every
condition is checked again before a half is added.
"""
