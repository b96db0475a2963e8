"""Weights between ranks of one launch by MPI: a thread of its own calls MPI, and the event loop never waits for it."""
