"""Synchronous rounds: members agree on one mean of their weights, and each applies it whole or not at all."""
