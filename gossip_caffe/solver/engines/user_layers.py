"""The interface to a net's own Python layers: their rank and count, and the passes that they skip.

Only processes that run Caffe use this. Layers read rank and count through the functions of BVLC 1.0's pycaffe, with any
pycaffe, and in environment variables. Both are set before a layer's module is imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

from gossip_caffe.errors import ModelError
from gossip_caffe.job.prototxts.own_data import COUNT, RANK, SEED
from gossip_caffe.solver.engines.place import LayerRank

_OF_BVLC = ("solver_rank", "solver_count", "set_solver_rank", "set_solver_count", "set_multiprocess")


def tell_place(caffe: ModuleType, place: LayerRank) -> None:
    """Set rank, count and seed for the layers of all nets that are built from now on.

    A Caffe with ranks of its own gets them, so that its C++ layers see them, too. ``set_multiprocess`` is called when
    there are several solvers, because Caffe refuses Python layers then otherwise.
    """
    os.environ |= {RANK: str(place.rank), COUNT: str(place.count), SEED: str(place.seed)}
    if all(hasattr(caffe, name) for name in _OF_BVLC) and not getattr(caffe.solver_rank, "is_ours", False):
        caffe.set_multiprocess(place.count > 1)
        caffe.set_solver_count(place.count)
        caffe.set_solver_rank(place.rank)
        return
    functions = _as_of_bvlc(place)
    for module in (caffe, getattr(caffe, "_caffe", caffe)):
        for name, function in functions.items():
            setattr(module, name, function)


def _as_of_bvlc(place: LayerRank) -> dict[str, Callable[..., Any]]:
    """Return the functions of BVLC 1.0 for a pycaffe that lacks them; the setters only change the getters' results."""
    known = {"rank": place.rank, "count": place.count}

    def solver_rank() -> int:
        return known["rank"]

    def solver_count() -> int:
        return known["count"]

    def set_solver_rank(rank: int) -> None:
        known["rank"] = int(rank)

    def set_solver_count(count: int) -> None:
        known["count"] = int(count)

    def set_multiprocess(multiprocess: bool) -> None:
        del multiprocess  # it would allow Python layers in several solvers, which this Caffe allows anyway

    solver_rank.is_ours = True  # type: ignore[attr-defined]
    functions = (solver_rank, solver_count, set_solver_rank, set_solver_count, set_multiprocess)
    return dict(zip(_OF_BVLC, functions, strict=True))


def skip_passes(net: Any, passes: int) -> None:
    """Call ``skip_passes(passes)`` of each Python layer of the net that has this method.

    Raises ModelError, which names the layer, for any exception of its code.
    """
    if passes <= 0:
        return
    for name, layer in zip(net._layer_names, net.layers, strict=True):
        skip = getattr(layer, "skip_passes", None)
        if not callable(skip):
            continue
        try:
            skip(passes)
        except (Exception, SystemExit) as error:  # the user's own code may raise anything
            said = " ".join(str(error).split())
            raise ModelError(
                f"layer {name!r}: skip_passes({passes}): {type(error).__name__}: {said}",
                remedy="correct the layer's code, or leave its method 'skip_passes' out",
            ) from None
