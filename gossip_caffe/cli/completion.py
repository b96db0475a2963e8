"""``gossip-caffe completion``: the script that makes a shell complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from gossip_caffe.cli.main import cli


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  gossip-caffe completion bash > ~/.local/share/bash-completion/completions/gossip-caffe
    zsh:   gossip-caffe completion zsh > "${fpath[1]}/_gossip-caffe"
    fish:  gossip-caffe completion fish > ~/.config/fish/completions/gossip-caffe.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"click knows no completion for {shell}")
    click.echo(kind(cli, {}, "gossip-caffe", "_GOSSIP_CAFFE_COMPLETE").source())
