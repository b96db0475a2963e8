"""The --data-root option: the place of a job's data on this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

data_root_option: Callable[[Any], Any] = click.option(
    "--data-root",
    "data_roots",
    multiple=True,
    metavar="OLD=NEW",
    help="On this machine the job's data is below the folder NEW instead of OLD.",
)
