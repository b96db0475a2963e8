"""Consensus checkpoints: manifest, files, transfer."""
