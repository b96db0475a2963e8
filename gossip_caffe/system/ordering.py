"""The order in which one process sees another's stores to shared memory.

x86-64 keeps the order of stores, and that of loads, by itself. arm64 and others do not: they need a fence between data
and the word that announces the data, on both sides. Python has no fence, so it is compiled (fences.c). A machine that
needs a fence and has none must not train, because a torn snapshot would look whole.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from gossip_caffe.errors import EnvironmentProblem

try:
    from gossip_caffe.system.fences import fence as compiled_fence
except ImportError:  # there was no compiler when the package was installed
    compiled_fence = None  # type: ignore[assignment]

KEEPS_ORDER = frozenset({"x86_64", "amd64", "i386", "i486", "i586", "i686"})
"""Machines, named as by ``platform.machine``, whose stores become visible in program order."""


class Order(StrEnum):
    """The mechanism that keeps the order of two stores."""

    KEPT = "kept by the processor"
    FENCED = "kept by compiled fences"
    NONE = "not kept"


@dataclass(frozen=True, slots=True)
class Ordering:
    """The mechanism of this machine, and the reason."""

    order: Order
    reason: str
    remedy: str = ""


def ordering(machine: str, has_fence: bool) -> Ordering:
    """The mechanism for a ``machine``. ``has_fence``: True if fences.c was compiled."""
    if machine.lower() in KEEPS_ORDER:
        return Ordering(Order.KEPT, f"{machine} keeps the order of stores")
    named = machine or "an unknown processor"
    if has_fence:
        return Ordering(Order.FENCED, f"{named}, with compiled fences")
    return Ordering(
        Order.NONE,
        f"{named} does not keep the order of stores, and gossip_caffe/system/fences.c was not compiled",
        "install a C compiler and Python's headers, and then gossip-caffe again",
    )


HERE = ordering(platform.machine(), compiled_fence is not None)


def refuse_without_order(found: Ordering = HERE) -> None:
    """Raise EnvironmentProblem on a machine where a torn snapshot would look whole."""
    if found.order is Order.NONE:
        raise EnvironmentProblem(f"this machine cannot train: {found.reason}", remedy=found.remedy)


def _nothing() -> None:
    """Does nothing: the processor keeps the order."""


fence: Callable[[], None] = compiled_fence if HERE.order is Order.FENCED else _nothing
"""A memory fence between data and the word that announces it: call it after writing the data, and before reading it."""
