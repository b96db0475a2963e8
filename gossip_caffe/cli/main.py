"""The ``gossip-caffe`` command. Subcommands are imported when they are called, so that --help is quick."""

from __future__ import annotations

import atexit
import importlib
import os
import sys
import traceback

import click
from click.shell_completion import CompletionItem

from gossip_caffe import __version__
from gossip_caffe.cli.from_caffe.words import translated
from gossip_caffe.cli.terminal.machine_problems import allow_many_files, hear_signals, problem_of
from gossip_caffe.cli.terminal.streams import finish_streams, open_streams, say
from gossip_caffe.errors import ExitCode, GossipCaffeError

_COMMANDS = {
    "chaos": (
        "gossip_caffe.cli.commands.chaos:chaos",
        "Disturb a local cluster, and check that nothing is lost.",
    ),
    "checkpoint": (
        "gossip_caffe.cli.commands.checkpoint:checkpoint",
        "List, fetch, check and export a job's checkpoints.",
    ),
    "cluster": (
        "gossip_caffe.cli.commands.cluster:cluster",
        "Run a job on this machine, with any number of peers.",
    ),
    "completion": ("gossip_caffe.cli.completion:completion", "Print the completion script of a shell."),
    "dashboard": (
        "gossip_caffe.cli.commands.views.dashboard:dashboard",
        "Show a run as a page that follows it.",
    ),
    "data": (
        "gossip_caffe.cli.from_caffe.data:data",
        "Make a database of pictures, and look at it.",
    ),
    "demo": ("gossip_caffe.cli.commands.demo:demo", "See peers train, join and die, in two minutes."),
    "device_query": (
        "gossip_caffe.cli.from_caffe.device_query:device_query",
        "Show the GPUs of this machine.",
    ),
    "discover": (
        "gossip_caffe.cli.commands.services.discover:discover",
        "Tell Prometheus where the peers of a job serve their metrics.",
    ),
    "doctor": (
        "gossip_caffe.cli.commands.doctor:doctor",
        "Check that this machine has all that a peer needs.",
    ),
    "etcd": ("gossip_caffe.cli.commands.services.etcd:etcd", "Run an etcd for peers of other machines."),
    "events": ("gossip_caffe.cli.commands.views.events:events", "Print the events of this machine's peers."),
    "evaluate": ("gossip_caffe.cli.commands.evaluate:evaluate", "Test a job's weights on its test data."),
    "job": ("gossip_caffe.cli.commands.job:job", "Create, check, list and show jobs."),
    "logs": ("gossip_caffe.cli.commands.views.logs:logs", "Print what peers printed, or their event logs."),
    "peer": ("gossip_caffe.cli.commands.peer:peer", "Start, list and stop peers."),
    "report": (
        "gossip_caffe.cli.commands.report:report",
        "Draw a run as one HTML page that opens without a network.",
    ),
    "shards": ("gossip_caffe.cli.commands.shards:shards", "Show which peer trains which data of a job."),
    "simulate": (
        "gossip_caffe.cli.commands.simulate:simulate",
        "Simulate a job with faults, and check every invariant.",
    ),
    "status": (
        "gossip_caffe.cli.commands.views.status:status",
        "Show a job: its progress, and each living peer.",
    ),
    "test": (
        "gossip_caffe.cli.from_caffe.test:test",
        "Score a net on a weight file, as 'caffe test' does.",
    ),
    "time": (
        "gossip_caffe.cli.from_caffe.timing:time_",
        "Measure the time of each layer, as 'caffe time' does.",
    ),
    "tls": ("gossip_caffe.cli.commands.tls:tls", "Make and show certificates."),
    "top": ("gossip_caffe.cli.commands.views.top:top", "Show a job while it trains, with keys."),
    "train": ("gossip_caffe.cli.commands.train:train", "Train a solver.prototxt, as 'caffe train' does."),
    "tune": (
        "gossip_caffe.cli.commands.tune.group:tune",
        "Search for good settings, with trials on many machines.",
    ),
    "verify": (
        "gossip_caffe.cli.commands.verify:verify",
        "Check the event logs of a run against every invariant.",
    ),
    "version": ("gossip_caffe.cli.main:version", "Print the version."),
}
"""Name → the command's module and attribute, and its line in the list: no command is imported to be listed."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of that name; None when there is no such command."""
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{_COMMANDS[cmd_name][0]} is not a command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands into the help text."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][1]) for name in self.list_commands(ctx)])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands and options that begin with ``incomplete``."""
        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        commands = [CompletionItem(name, help=_COMMANDS[name][1]) for name in names]
        return commands + click.Command.shell_complete(self, ctx, incomplete)


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="gossip-caffe")
def cli() -> None:
    """Train any Caffe model on machines that come and go.

    Peers register in etcd. Each peer trains its shard of the data, and peers average their weights in pairs
    while they go on training. There is no master and no parameter server: you can start or kill a peer at any
    time.

    \b
    See it work:         gossip-caffe demo
    Train your model:    gossip-caffe train solver.prototxt --peers 4
    Keep it running:     gossip-caffe cluster up --peers 4 --solver solver.prototxt
    On many machines:    gossip-caffe job create NAME --solver solver.prototxt --etcd HOST:2379
                         gossip-caffe peer start --job NAME --etcd HOST:2379      (on each of them)
    Watch it:            gossip-caffe top
    Check this machine:  gossip-caffe doctor
    """


@click.command()
def version() -> None:
    """Print the version."""
    say(f"gossip-caffe {__version__}")


_ONLY_PRINTS = {
    "logs",
    "events",
    "list",
    "show",
    "status",
    "doctor",
    "version",
    "completion",
    "evaluate",
    "-h",
    "--help",
    "--version",
}
"""Commands and options that only print."""


_PRINTING = {"test", "time", "device_query"}
"""Commands that only print, and whose words may be names elsewhere."""


def _only_prints(words: list[str]) -> bool:
    return not _ONLY_PRINTS.isdisjoint(words) or not _PRINTING.isdisjoint(words[:1])


def main() -> None:
    """Run the command. A failure that the user can mend is one line, and the exit code names its kind."""
    open_streams()
    allow_many_files()
    code = _outcome()
    try:
        code, lost = finish_streams(code, only_prints=_only_prints(sys.argv[1:]))
        if lost:
            _say(lost, ExitCode.FAILED)
    except KeyboardInterrupt:
        pass  # the user does not want to wait until the reader of the output has read the rest
    if (
        sys.flags.inspect
    ):  # $PYTHONINSPECT keeps Python alive: a command must still end, with its own exit code
        atexit._run_exitfuncs()
        os._exit(code)
    sys.exit(code)


def _outcome() -> int:
    """Run the command to its end. Returns the exit code."""
    try:
        hear_signals()  # one that waited comes now
        code = cli.main(_in_our_words(sys.argv[1:]), prog_name="gossip-caffe", standalone_mode=False)
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            return _say(str(end.code), ExitCode.FAILED)
        code = end.code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()  # a group without a subcommand: print its help
        code = ExitCode.USAGE
    except click.ClickException as error:
        code = _say(_one_line(error), ExitCode.USAGE)
    except (click.Abort, KeyboardInterrupt):
        code = _say("interrupted", ExitCode.INTERRUPTED)
    except GossipCaffeError as error:
        code = _say(str(error), error.exit_code)
    except (
        Exception
    ) as error:  # the process's outermost edge: a lack of the machine, or else a defect of gossip-caffe
        if (problem := problem_of(error)) is not None:
            return _say(str(problem), problem.exit_code)
        traceback.print_exc()
        code = _say("this is a defect of gossip-caffe; please report the lines above", ExitCode.FAILED)
    return int(code or 0)


def _in_our_words(words: list[str]) -> list[str]:
    """Return the words of the command. Caffe's are translated, and a notice names each that has no effect here."""
    translation = translated(words)
    for notice in translation.notices:
        say(notice, err=True)
    return list(translation.words)


def _one_line(error: click.ClickException) -> str:
    """Return click's message about wrong arguments as one line: the mistake; the remedy."""
    message = " ".join(error.format_message().split()).rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{message}; see '{context.command_path if context else 'gossip-caffe'} --help'"


def _say(line: str, code: ExitCode) -> ExitCode:
    say(f"gossip-caffe: {line}", err=True)
    return code


if __name__ == "__main__":
    main()
