"""Chunks, their plan and their ledger."""
