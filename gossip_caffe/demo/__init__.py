"""The demonstration: a small job on this machine, a peer that joins, one that is killed, and what came of it."""
