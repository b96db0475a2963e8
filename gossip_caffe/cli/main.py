"""The ``gossip-caffe`` command. Subcommands are imported when they are called, so that --help is quick."""

from __future__ import annotations

import importlib
import sys
import traceback

import click

from gossip_caffe import __version__
from gossip_caffe.errors import ExitCode, GossipCaffeError

_COMMANDS = {
    "cluster": "gossip_caffe.cli.cluster:cluster",
    "completion": "gossip_caffe.cli.completion:completion",
    "demo": "gossip_caffe.cli.demo:demo",
    "doctor": "gossip_caffe.cli.doctor:doctor",
    "job": "gossip_caffe.cli.job:job",
    "peer": "gossip_caffe.cli.peer:peer",
    "version": "gossip_caffe.cli.main:version",
}


class Lazy(click.Group):
    """A group whose commands are imported by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one."""
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{_COMMANDS[cmd_name]} is no command")
        return command


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="gossip-caffe")
def cli() -> None:
    """Train any Caffe model on machines that come and go.

    Peers register in etcd, each trains a shard that is assigned live, and they average their weights with
    random neighbours while they go on stepping. No master, no parameter server: start one more peer, or kill
    one, at any time.

    \b
    See it work:         gossip-caffe demo
    Train your model:    gossip-caffe cluster up --peers 4 --solver solver.prototxt
    On many machines:    gossip-caffe job create NAME --solver solver.prototxt --etcd HOST:2379
                         gossip-caffe peer start --job NAME --etcd HOST:2379      (on each of them)
    Is all there?        gossip-caffe doctor
    """


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"gossip-caffe {__version__}")


def main() -> None:
    """Run the command; a failure that the user can mend is one line, and its exit code says of which kind it is."""
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = ExitCode.USAGE
    except (click.Abort, KeyboardInterrupt):
        click.echo("gossip-caffe: interrupted", err=True)
        code = ExitCode.INTERRUPTED
    except GossipCaffeError as error:
        click.echo(f"gossip-caffe: {error}", err=True)
        code = error.exit_code
    except BrokenPipeError:
        sys.stderr.close()  # who read our output has gone; there is nobody to tell
        code = ExitCode.OK
    except Exception:  # the process's outermost edge: a defect of ours
        traceback.print_exc()
        click.echo("gossip-caffe: this is a defect of gossip-caffe; please report the lines above", err=True)
        code = ExitCode.FAILED
    sys.exit(int(code or 0))


if __name__ == "__main__":
    main()
