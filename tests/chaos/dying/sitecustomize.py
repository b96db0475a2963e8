"""Lets the agent that makes or copies a checkpoint die by SIGKILL at a chosen point; it is on PYTHONPATH for one test.

The folder $GOSSIP_CAFFE_DIE holds a file named after the point at which the next agent is to die. Who gets there takes
the file away and dies: one agent for each file.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ.get("GOSSIP_CAFFE_DIE", "/nonexistent"))
PEER = sys.orig_argv[sys.orig_argv.index("--name") + 1] if "--name" in sys.orig_argv else ""


def die_at(point: str) -> None:
    """Die when this is the point."""
    try:
        (FOLDER / point).rename(FOLDER / f"died-{point}-{PEER}")
    except OSError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _of_training(checkpoint: str) -> bool:
    return int(checkpoint.split("-", maxsplit=1)[0]) > 0


def _checkpointing(module: Any) -> None:
    take, consensus, announce = module.take, module.consensus, module.announce

    async def dying_take(*args: Any) -> Any:
        held = await take(*args)
        if held.ours:
            die_at("elected")
        return held

    async def dying_consensus(*args: Any, **more: Any) -> Any:
        found = await consensus(*args, **more)
        die_at("collecting")
        return found

    async def dying_announce(*args: Any, **more: Any) -> Any:
        die_at("before-announcing")
        said = await announce(*args, **more)
        die_at("after-announcing")
        return said

    module.take, module.consensus, module.announce = dying_take, dying_consensus, dying_announce


def _copying(module: Any) -> None:
    pull = module.pull

    async def dying_pull(*args: Any, **more: Any) -> Any:
        die_at("copying")
        return await pull(*args, **more)

    module.pull = dying_pull


def _files(module: Any) -> None:
    write, finish = module._write, module.CheckpointFolder.finish

    def dying_write(path: Path, content: Callable[..., None]) -> Any:
        def half(file: Any) -> None:
            content(file)
            if _of_training(path.parent.name.removeprefix(".unfinished-")):
                file.flush() if hasattr(file, "flush") else None
                die_at("writing")

        return write(path, half)

    def dying_finish(self: Any, unfinished: Path, checkpoint: str) -> None:
        if _of_training(checkpoint):
            die_at("before-renaming")
        finish(self, unfinished, checkpoint)

    module._write, module.CheckpointFolder.finish = dying_write, dying_finish


def _file_serving(module: Any) -> None:
    sent, pieces = module.FileServing._sent, module.FileServing._pieces

    async def dying_sent(self: Any, path: Path, *args: Any) -> Any:
        if _of_training(path.parent.name):
            die_at("replicating")
        return await sent(self, path, *args)

    async def dying_pieces(self: Any, path: Path, offset: int) -> Any:
        async for piece in pieces(self, path, offset):
            if _of_training(path.parent.name):
                die_at("replicating")
            yield piece

    module.FileServing._sent, module.FileServing._pieces = dying_sent, dying_pieces


_CHANGES = {
    "gossip_caffe.peer.checkpoints.checkpointing": _checkpointing,
    "gossip_caffe.peer.checkpoints.copying": _copying,
    "gossip_caffe.checkpoint.files": _files,
    "gossip_caffe.gossip.transport.file_serving": _file_serving,
}


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: Any, change: Callable[[Any], None]) -> None:
        self._loader = loader
        self._change = change

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        self._loader.exec_module(module)
        self._change(module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name not in _CHANGES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None:
            spec.loader = _Loader(spec.loader, _CHANGES[name])
        return spec


if FOLDER.is_dir() and "peer" in sys.orig_argv and "start" in sys.orig_argv:
    sys.meta_path.insert(0, _Finder())
