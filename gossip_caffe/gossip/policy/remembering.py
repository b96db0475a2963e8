"""Bounded records about other peers, by name or by address: of the newest peers only, and of none that has departed."""

from __future__ import annotations

from collections.abc import Container
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")

MOST_PARTNERS = 1024
"""The number of partners of which records are kept; the least recently used record is dropped first."""


def remember(memory: dict[K, V], key: K, value: V, most: int = MOST_PARTNERS) -> None:
    """Keep a value as the newest of ``memory``; drop the oldest one if there are more than ``most``."""
    memory.pop(key, None)
    memory[key] = value
    if len(memory) > most:
        del memory[next(iter(memory))]


def forget_departed(memory: dict[K, V], living: Container[K]) -> None:
    """Drop the records of all keys that are not among ``living``."""
    for key in [key for key in memory if key not in living]:
        del memory[key]
