"""The order of stores: which machines keep it, which need a fence, and where the fences are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import EnvironmentProblem
from gossip_caffe.job.spec.spec import TopSpec
from gossip_caffe.solver.board import WeightBoard
from gossip_caffe.system import ordering
from gossip_caffe.system.ordering import Order, refuse_without_order

FENCE = "fence"


@pytest.mark.parametrize("machine", ["x86_64", "AMD64", "i686"])
@pytest.mark.parametrize("has_fence", [True, False])
def test_machines_that_keep_the_order_need_nothing(machine: str, has_fence: bool) -> None:
    found = ordering.ordering(machine, has_fence)
    assert found.order is Order.KEPT
    refuse_without_order(found)


@pytest.mark.parametrize(
    "machine", ["aarch64", "arm64", "armv7l", "ppc64le", "riscv64", "loongarch64", "s390x", ""]
)
def test_any_other_machine_needs_the_compiled_fence_or_is_refused_in_one_line(machine: str) -> None:
    fenced = ordering.ordering(machine, has_fence=True)
    assert fenced.order is Order.FENCED
    refuse_without_order(fenced)
    with pytest.raises(EnvironmentProblem) as caught:
        refuse_without_order(ordering.ordering(machine, has_fence=False))
    assert "\n" not in str(caught.value)
    assert (machine or "unknown") in caught.value.message
    assert "compiler" in caught.value.remedy


def test_this_machine_is_one_of_them() -> None:
    refuse_without_order()
    ordering.fence()
    fences = pytest.importorskip(
        "gossip_caffe.system.fences", reason="there was no compiler when the package was installed"
    )
    fences.fence()


class Traced:
    """Words of shared memory whose every access is written down."""

    def __init__(self, words: Any, trace: list[str], name: str = "word") -> None:
        self._words, self._trace, self._name = words, trace, name

    def __getitem__(self, at: Any) -> Any:
        self._trace.append(f"load {self._called(at)}")
        return self._words[at]

    def __setitem__(self, at: Any, value: Any) -> None:
        self._trace.append(f"store {self._called(at)}")
        self._words[at] = value

    def __iter__(self) -> Any:
        self._trace.append(f"load {self._name}")
        return iter(self._words)

    def _called(self, at: Any) -> str:
        return f"{self._name}{at}" if self._name == "word" and isinstance(at, int) else self._name


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    monkeypatch.setattr(ordering, "fence", lambda: seen.append(FENCE))
    copy = np.copyto

    def copyto(to: Any, what: Any, **options: Any) -> None:
        seen.append("data")
        copy(to, what, **options)

    monkeypatch.setattr(np, "copyto", copyto)
    return seen


def apart(trace: Sequence[str], first: str, then: str) -> bool:
    """Whether a fence stands between the last ``first`` and the next ``then`` after it."""
    after = trace.index(then, trace.index(first))
    before = max(at for at in range(after) if trace[at] == first)
    return FENCE in trace[before:after]


def board_of(trace: list[str]) -> WeightBoard:
    board = WeightBoard.create(8)
    board._words = Traced(board._words, trace)  # type: ignore[assignment]
    return board


BEGIN, END, LATEST, VERSION, OFFERED = 64 + 8, 64 + 8 + 1, 8, 9, 16  # of the first slot that is written


def test_a_snapshot_is_written_between_fences(trace: list[str]) -> None:
    board = board_of(trace)
    board.publish(np.ones(8, np.float32), iteration=1, batches=1, samples=1)
    assert apart(trace, f"store word{BEGIN}", "data")
    assert apart(trace, "data", f"store word{END}")
    assert apart(trace, f"store word{END}", f"store word{LATEST}")
    assert apart(trace, f"store word{LATEST}", f"store word{VERSION}")


def test_a_snapshot_is_read_between_fences(trace: list[str]) -> None:
    board = board_of(trace)
    board.publish(np.ones(8, np.float32), iteration=1, batches=1, samples=1)
    trace.clear()
    board._read(np.empty(8, np.float32))
    assert apart(trace, f"load word{LATEST}", f"load word{END}")
    assert apart(trace, f"load word{END}", "data")
    assert apart(trace, "data", f"load word{BEGIN}")
    trace.clear()
    assert board.published.version == 1
    assert trace[-2:] == [FENCE, f"load word{BEGIN}"]


def test_a_correction_is_offered_and_taken_between_fences(trace: list[str]) -> None:
    board = board_of(trace)
    board.publish(np.ones(8, np.float32), iteration=1, batches=1, samples=1)
    trace.clear()
    board.add_correction(np.ones(8, np.float32))
    assert trace[trace.index("data") - 1] == FENCE  # after it was seen to be free
    assert apart(trace, "data", f"store word{OFFERED}")
    trace.clear()
    assert board.waiting_correction() is not None
    assert trace[trace.index(f"load word{OFFERED}") + 1] == FENCE


def test_a_batch_is_written_and_read_between_fences(trace: list[str]) -> None:
    ring = BatchRing.create([TopSpec("data", (2,))], 4, 2)
    ring._words = Traced(ring._words, trace)  # type: ignore[assignment]
    ring._meta = [Traced(words, trace, "meta") for words in ring._meta]  # type: ignore[misc]
    head, tail = "word4", "word5"
    assert ring.reserve(0.0) is not None
    assert trace[-2 if trace[-1] == f"load {head}" else -1] == FENCE  # the slot is written after that
    ring.commit(0, 4)
    assert apart(trace, "store meta", f"store {head}")
    trace.clear()
    assert ring.take(0.0) is not None
    assert FENCE in trace[trace.index(f"load {head}") : trace.index("load meta")]
    trace.clear()
    ring.release()
    assert trace[trace.index(f"store {tail}") - 2 : trace.index(f"store {tail}")].count(FENCE) == 1
    ring.close()
