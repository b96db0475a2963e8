"""A solver's momentum is handed over in a descriptor; where there is none left, that costs a checkpoint, not a peer."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from gossip_caffe.errors import EnvironmentProblem
from gossip_caffe.solver.solver_port import SolverProcess
from tests.descriptors import open_descriptors


def full(*_: object) -> Any:
    raise OSError(24, "Too many open files")


@pytest.mark.parametrize("where", ["its own", "the child's"])
async def test_no_descriptor_for_the_momentum_is_a_problem_of_the_machine(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    solver: Any = SolverProcess.__new__(SolverProcess)
    solver._asked, solver._child = 0, SimpleNamespace(send=full)
    if where == "its own":
        monkeypatch.setattr(os, "memfd_create", full)
    before = open_descriptors()
    with pytest.raises(EnvironmentProblem, match=r"momentum.*Too many open files") as caught:
        await solver.history()
    assert "ulimit -n" in str(caught.value)
    assert not {what for _, what in open_descriptors() - before if "gossip-caffe-history" in what}
