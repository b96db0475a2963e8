"""The ``gossip-caffe`` command. Subcommands are imported when they are called, so that --help is quick."""

from __future__ import annotations

import importlib
import os
import sys
import traceback

import click
from click.shell_completion import CompletionItem

from gossip_caffe import __version__
from gossip_caffe.errors import ExitCode, GossipCaffeError

_COMMANDS = {
    "chaos": (
        "gossip_caffe.cli.chaos:chaos",
        "Kill processes of a cluster by a plan, and check what is left.",
    ),
    "checkpoint": (
        "gossip_caffe.cli.checkpoint:checkpoint",
        "List, fetch, check and export what a job has kept.",
    ),
    "cluster": (
        "gossip_caffe.cli.cluster:cluster",
        "Run a job on this machine, with as many peers as you like.",
    ),
    "completion": ("gossip_caffe.cli.completion:completion", "Print the completion script of a shell."),
    "demo": ("gossip_caffe.cli.demo:demo", "See peers train, join and die, in two minutes."),
    "doctor": ("gossip_caffe.cli.doctor:doctor", "Say whether all is here that a peer needs."),
    "evaluate": ("gossip_caffe.cli.evaluate:evaluate", "Test a job's weights on its test data."),
    "job": ("gossip_caffe.cli.job:job", "Create and look at jobs."),
    "peer": ("gossip_caffe.cli.peer:peer", "Start, list and stop peers."),
    "report": ("gossip_caffe.cli.report:report", "Draw a run as one page that opens without a network."),
    "shards": ("gossip_caffe.cli.shards:shards", "See who trains which data of a job."),
    "simulate": (
        "gossip_caffe.cli.simulate:simulate",
        "Do a simulated job harm, and check every invariant.",
    ),
    "train": ("gossip_caffe.cli.train:train", "Train a solver.prototxt, as 'caffe train' does."),
    "verify": ("gossip_caffe.cli.verify:verify", "Check what the event logs of a run prove."),
    "version": ("gossip_caffe.cli.main:version", "Print the version."),
}
"""Name → where it is, and what the list of commands says: none of them is imported to be listed."""


class Lazy(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one."""
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{_COMMANDS[cmd_name][0]} is no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][1]) for name in self.list_commands(ctx)])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands and options that begin so."""
        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        commands = [CompletionItem(name, help=_COMMANDS[name][1]) for name in names]
        return commands + click.Command.shell_complete(self, ctx, incomplete)


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="gossip-caffe")
def cli() -> None:
    """Train any Caffe model on machines that come and go.

    Peers register in etcd, each trains a shard that is assigned live, and they average their weights with
    random neighbours while they go on stepping. No master, no parameter server: start one more peer, or kill
    one, at any time.

    \b
    See it work:         gossip-caffe demo
    Train your model:    gossip-caffe train solver.prototxt --peers 4
    And let it run:      gossip-caffe cluster up --peers 4 --solver solver.prototxt
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
        code = cli.main(prog_name="gossip-caffe", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()  # a group called alone: its help
        code = ExitCode.USAGE
    except click.ClickException as error:
        code = _say(_one_line(error), ExitCode.USAGE)
    except (click.Abort, KeyboardInterrupt):
        code = _say("interrupted", ExitCode.INTERRUPTED)
    except GossipCaffeError as error:
        code = _say(str(error), error.exit_code)
    except BrokenPipeError:
        # Who read our output has gone; there is nobody to tell, and nothing for the interpreter to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.FAILED
    except Exception:  # the process's outermost edge: a defect of ours
        traceback.print_exc()
        code = _say("this is a defect of gossip-caffe; please report the lines above", ExitCode.FAILED)
    sys.exit(int(code or 0))


def _one_line(error: click.ClickException) -> str:
    """What click has to say about the words of a command, in our form: what; what to do."""
    message = " ".join(error.format_message().split()).rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{message}; see '{context.command_path if context else 'gossip-caffe'} --help'"


def _say(line: str, code: ExitCode) -> ExitCode:
    click.echo(f"gossip-caffe: {line}", err=True)
    return code


if __name__ == "__main__":
    main()
