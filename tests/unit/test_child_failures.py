"""A child that cannot be started leaves nothing behind, and one whose words cannot be taken ends with a reason."""

from __future__ import annotations

import asyncio
import errno
import os
import textwrap
from pathlib import Path
from typing import Any

import pytest

from gossip_caffe.errors import EnvironmentProblem
from gossip_caffe.system import children
from gossip_caffe.system.children import Child

SAYS = """
    import sys, time
    from gossip_caffe.system.control import Control

    control = Control(int(sys.argv[2]))
    control.send({"said": 1})
    if "stay" in sys.argv:
        time.sleep(600)
"""


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EAGAIN, errno.EMFILE])
async def test_a_child_that_cannot_be_spawned_leaks_no_descriptor(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(children, "spawn", fails)
    child = Child("nothing", lambda message: None)
    before = descriptors()
    for _ in range(5):
        with pytest.raises(EnvironmentProblem, match=os.strerror(number)) as caught:
            child.start()
        assert caught.value.remedy
    assert descriptors() == before
    assert (child.running, child.pid) == (False, 0)
    assert (await child.wait()).code == 0  # never started: nothing to wait for


async def test_a_child_whose_end_cannot_be_watched_is_killed_and_leaks_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(pid: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", fails)
    before = descriptors()
    with pytest.raises(EnvironmentProblem):
        Child("http.server", lambda message: None).start()
    assert descriptors() == before


@pytest.mark.parametrize("word", ["stay", "go"])
async def test_a_message_that_cannot_be_taken_ends_the_child_with_its_reason(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the message comes with the child's end: whoever waits does not wait for ever."""
    (tmp_path / "says_child.py").write_text(textwrap.dedent(SAYS))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path.cwd())]))

    def cannot(message: dict[str, Any]) -> None:
        raise KeyError("layout")

    child = Child("says_child", cannot, word)
    child.start()
    async with asyncio.timeout(60):
        end = await child.wait()
    assert "KeyError: 'layout'" in end.stderr[-1]
    assert not child.running
