"""The demonstration: a small job, a peer that joins, one that is killed, and what came of it."""
