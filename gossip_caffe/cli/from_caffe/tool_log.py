"""Caffe's lines of a command: on stderr, where Caffe's tools print them, and in the file of ``--log``."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import click

from gossip_caffe.cli.terminal.streams import say
from gossip_caffe.errors import EnvironmentProblem
from gossip_caffe.observe.export.caffe_lines import glog_head

PLACE = "caffe.cpp:313"
"""The place in Caffe's source that a line of its tools names: parsers of logs look for its form alone."""
_LEVEL = "GLOG_minloglevel"

log_option: Callable[[Any], Any] = click.option(
    "--log",
    "log_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write Caffe's lines to this file, too.",
)


@contextlib.contextmanager
def tool_log(path: Path | None) -> Iterator[Callable[[str], None]]:
    """Yield a function that prints one line as glog does. ``$GLOG_minloglevel`` silences stderr, as it does Caffe.

    Raises EnvironmentProblem when the file cannot be written.
    """
    shown = os.environ.get(_LEVEL, "0").strip() in {"", "0"}
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_written(path)) if path is not None else None

        def take(text: str) -> None:
            line = f"{glog_head(time.time(), os.getpid())} {PLACE}] {text}"
            if shown:
                say(line.expandtabs(), err=True)
            if file is not None:
                file.write(f"{line}\n")

        yield take
        sys.stderr.flush()


@contextlib.contextmanager
def _written(path: Path) -> Iterator[TextIO]:
    try:
        with path.open("w", encoding="utf-8") as file:
            yield file
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot write {path} ({error.strerror})", remedy="give --log a file that can be written"
        ) from None
