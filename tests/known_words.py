"""Commands of pages and of deploy/, held against the commands and options that the program has."""

from __future__ import annotations

from collections.abc import Sequence

import click

from gossip_caffe.cli.main import cli


def unknown(words: Sequence[str]) -> str:
    """The first word of a call of gossip-caffe that is no command or no option; "" where all are known."""
    command: click.Command = cli
    context = click.Context(command)
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        found = command.get_command(context, name)
        if found is None:
            return f"there is no command {name!r}"
        command = found
    options = {option for parameter in command.get_params(context) for option in parameter.opts}
    options |= {option for parameter in command.get_params(context) for option in parameter.secondary_opts}
    given = [word.partition("=")[0] for word in rest if word.startswith("-")]
    return next((f"{command.name} has no option {word}" for word in given if word not in options), "")
