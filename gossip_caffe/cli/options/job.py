"""The --job option of commands that work on one job in etcd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

job_option: Callable[[Any], Any] = click.option(
    "--job", default="", help="The job.  [default: the only one in etcd]"
)
