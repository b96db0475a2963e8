"""Messages, descriptors, last words and deaths of real child processes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from gossip_caffe.system.children import KEPT_STDERR_LINES, Child

pytestmark = pytest.mark.integration

DEADLINE_S = 30.0

ECHO = """
    import os, sys
    from gossip_caffe.system.control import Control

    control = Control(int(sys.argv[2]))
    try:
        while True:
            message, fds = control.receive(None)
            for fd in fds:
                message.setdefault("read", []).append(os.pread(fd, 100, 0).decode())
                message["inheritable"] = os.get_inheritable(fd)
            if "say" in message:
                print(message["say"], file=sys.stderr, flush=True)
            if "exit" in message:
                sys.exit(message["exit"])
            control.send(message)
    except EOFError:
        print("the parent is gone", file=sys.stderr)
"""


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "echo_child.py").write_text(textwrap.dedent(ECHO))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path.cwd())]))
    return "echo_child"


class Talk:
    """A child, and what it has said."""

    def __init__(self, module: str) -> None:
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.child = Child(module, self.messages.put_nowait)

    async def answer(self) -> dict[str, Any]:
        async with asyncio.timeout(DEADLINE_S):
            return await self.messages.get()


async def test_messages_of_any_size_come_whole_and_in_order(echo: str) -> None:
    talk = Talk(echo)
    talk.child.start()
    texts = [
        letter * size for letter, size in zip("abcdef", (0, 1, 3_000_000, 10, 65536, 500_000), strict=True)
    ]
    for text in texts:
        talk.child.send({"text": text})
    assert [(await talk.answer())["text"] for _ in texts] == texts
    end = await talk.child.stop({"exit": 0}, DEADLINE_S)
    assert (end.code, end.how) == (0, "exit 0")


async def test_descriptors_go_with_their_message_also_behind_a_long_one(echo: str) -> None:
    talk = Talk(echo)
    talk.child.start()
    talk.child.send({"text": "x" * 2_000_000})
    for number in range(3):
        fds = [os.memfd_create("test") for _ in range(number)]
        for fd in fds:
            os.write(fd, f"{number}.{fd}".encode())
        talk.child.send({"number": number}, fds)
        for fd in fds:
            os.close(fd)  # the child's are copies
    assert len((await talk.answer())["text"]) == 2_000_000
    answers = [await talk.answer() for _ in range(3)]
    assert [len(answer.get("read", [])) for answer in answers] == [0, 1, 2]
    assert all(text.startswith("2.") for text in answers[2]["read"])
    assert answers[2]["inheritable"] is False
    await talk.child.stop({"exit": 0}, DEADLINE_S)


async def test_the_last_words_and_the_exit_code_are_kept(echo: str) -> None:
    talk = Talk(echo)
    talk.child.start()
    talk.child.send({"say": "\n".join(f"line {number}" for number in range(1000)), "exit": 9})
    async with asyncio.timeout(DEADLINE_S):
        end = await talk.child.wait()
    assert (end.code, len(end.stderr), end.stderr[-1]) == (9, KEPT_STDERR_LINES, "line 999")
    assert not talk.child.running


async def test_a_message_sent_just_before_the_end_is_heard(echo: str) -> None:
    talk = Talk(echo)
    talk.child.start()
    talk.child.send({"last": True})
    talk.child.send({"exit": 0})
    async with asyncio.timeout(DEADLINE_S):
        await talk.child.wait()
    assert talk.messages.get_nowait() == {"last": True}
    talk.child.send({"too": "late"})


async def test_a_child_that_does_not_stop_is_killed(tmp_path: Path, echo: str) -> None:
    (tmp_path / "deaf_child.py").write_text("import time\nwhile True:\n    time.sleep(60)\n")
    child = Child("deaf_child", lambda message: None)
    child.start()
    end = await child.stop({"stop": True}, 0.05)
    assert end.how == "killed by SIGKILL"


async def test_a_child_that_floods_its_error_output_without_a_line_end_is_kept_small(
    tmp_path: Path, echo: str
) -> None:
    (tmp_path / "loud_child.py").write_text("import sys\nsys.stderr.write('x' * 3_000_000)\n")
    child = Child("loud_child", lambda message: None)
    child.start()
    async with asyncio.timeout(DEADLINE_S):
        end = await child.wait()
    assert end.code == 0
    assert sum(map(len, end.stderr)) <= 4096


async def test_a_child_does_not_outlive_a_parent_that_is_killed(tmp_path: Path, echo: str) -> None:
    parent = """
        import asyncio, sys
        from gossip_caffe.system.children import Child

        async def main():
            child = Child("echo_child", lambda message: print(child.pid, flush=True))
            child.start()
            child.send({"text": "hello"})
            await child.wait()

        asyncio.run(main())
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(parent)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child_pid = int(process.stdout.readline())
        pidfd = os.pidfd_open(child_pid)
        process.kill()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(pidfd, ended.set)
    async with asyncio.timeout(DEADLINE_S):
        await ended.wait()
    asyncio.get_running_loop().remove_reader(pidfd)
    os.close(pidfd)


async def test_a_message_whose_descriptors_cannot_be_copied_is_not_sent_and_keeps_none(
    echo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Talk(echo)
    talk.child.start()
    copy = os.dup
    copied: list[int] = []

    def dup(fd: int) -> int:
        if copied:
            raise OSError(24, "Too many open files")
        copied.append(copy(fd))
        return copied[-1]

    fds = [os.memfd_create("test") for _ in range(2)]
    monkeypatch.setattr(os, "dup", dup)
    with pytest.raises(OSError, match="Too many open files"):
        talk.child.send({"number": 1}, fds)
    monkeypatch.undo()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(copied[0])
    talk.child.send({"number": 2}, fds)
    assert len((await talk.answer())["read"]) == 2
    for fd in fds:
        os.close(fd)
    await talk.child.stop({"exit": 0}, DEADLINE_S)
