"""``gossip-caffe evaluate``: test a job's weights on its test data."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from gossip_caffe.cli.options.allow_code import allow_code_option
from gossip_caffe.cli.options.data_root import data_root_option
from gossip_caffe.cli.options.etcd import EtcdPlace, etcd_options, with_connection
from gossip_caffe.cli.options.job import job_option
from gossip_caffe.cli.options.new_job import teller
from gossip_caffe.cli.terminal.output import print_json, print_table, terminal
from gossip_caffe.errors import UsageError

if TYPE_CHECKING:
    from gossip_caffe.api.evaluating import Evaluation


HEADINGS = ("NET", "OUTPUT", "MEAN", "LOSS")


@click.command()
@job_option
@click.option("--checkpoint", default="", metavar="ID", help="The checkpoint to test. [default: the newest]")
@click.option(
    "--live", is_flag=True, help="Test the mean of the peers that train now, instead of a checkpoint."
)
@click.option(
    "--weights",
    default="",
    metavar="FILE[,FILE…]",
    help="Test .caffemodel files, loaded one after the other, instead of a checkpoint.",
)
@click.option(
    "--solver", default="", help="Take the test nets from this solver file, without a job; needs --weights."
)
@click.option(
    "--iterations",
    default=0,
    type=click.IntRange(0),
    help="The number of batches. [default: the solver's test_iter]",
)
@data_root_option
@allow_code_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@etcd_options
def evaluate(
    job: str,
    checkpoint: str,
    live: bool,
    weights: str,
    solver: str,
    iterations: int,
    data_roots: tuple[str, ...],
    allow_code: bool | None,
    as_json: bool,
    place: EtcdPlace,
) -> None:
    """Run the TEST phase on a job's newest checkpoint, and print the mean of each output.

    This machine reads the test data. Peers that train are not disturbed.

    \b
    gossip-caffe evaluate
    gossip-caffe evaluate --job mnist --etcd 10.0.0.5:2379 --live
    gossip-caffe evaluate --solver solver.prototxt --weights lenet_iter_10000.caffemodel
    """
    if sum(map(bool, (checkpoint, live, weights))) > 1:
        raise UsageError("--checkpoint, --live and --weights exclude each other", remedy="give one of them")
    if solver and not weights:
        raise UsageError("--solver goes with a file", remedy="give --weights FILE, or --job NAME instead")
    with _bar(shown=not as_json) as on_pass:
        if solver:
            found = _of_file(solver, weights, iterations, data_roots, on_pass)
        else:
            found = with_connection(
                place,
                job,
                lambda connection: connection.evaluate(
                    checkpoint,
                    live=live,
                    weights=weights,
                    iterations=iterations,
                    data_roots=data_roots,
                    allow_code=allow_code,
                    on_pass=on_pass,
                ),
            )
    if as_json:
        print_json(found.to_record())
    else:
        print_table(HEADINGS, found.rows(), found.headline())


def _of_file(
    solver: str,
    weights: str,
    iterations: int,
    data_roots: tuple[str, ...],
    on_pass: Callable[[int, int], None],
) -> Evaluation:
    from gossip_caffe.api.file_evaluation import evaluate

    testing = evaluate(
        solver, weights, iterations=iterations, data_roots=data_roots, on_pass=on_pass, tell=teller()
    )
    return asyncio.run(testing)


@contextmanager
def _bar(*, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar if ``shown`` and on a terminal. Yields a function to be called with (passes done, in all)."""
    if not (shown and sys.stdout.isatty()):
        yield _unseen
        return
    from rich.progress import Progress

    with Progress(transient=True, console=terminal()) as bar:
        task = bar.add_task("testing", total=None)
        yield lambda done, passes: bar.update(task, completed=done, total=passes)


def _unseen(done: int, passes: int) -> None:
    del done, passes
