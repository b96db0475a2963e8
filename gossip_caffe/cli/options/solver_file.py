"""The solver file of a command: ``--solver FILE`` as everywhere, or the only argument."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from gossip_caffe.errors import UsageError


def solver_file(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command with both ways to name the file. The command receives ``solver``, a path.

    Raises UsageError when no file is named, or two are.
    """

    @functools.wraps(command)
    def told(*args: Any, argument: str | None, option: str | None, **rest: Any) -> None:
        if argument and option and argument != option:
            raise UsageError(
                f"two solver files are named: {option} and {argument}", remedy="give one, with --solver FILE"
            )
        if not (solver := option or argument):
            raise UsageError("no solver file is named", remedy="give --solver FILE")
        command(*args, solver=solver, **rest)

    told = click.option(
        "--solver", "option", type=click.Path(), metavar="FILE", help="The solver file; the same as SOLVER."
    )(told)
    return click.argument("argument", metavar="[SOLVER]", required=False, type=click.Path())(told)
