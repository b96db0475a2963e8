"""Transports of exchanges: gRPC, plain connections for large models, and an in-memory twin."""
