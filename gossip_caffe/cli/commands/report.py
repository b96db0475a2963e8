"""``gossip-caffe report``: draw a run as one HTML page."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

from pathlib import Path

import click

from gossip_caffe.cli.terminal.streams import say
from gossip_caffe.errors import EnvironmentProblem


@click.command()
@click.argument("run_dir", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write.  [default: RUN_DIR/report.html]",
)
@click.option("--title", default="", help="The title of the page.")
@click.option("--job", default="", metavar="NAME", help="The job, where the logs hold several.")
def report(run_dir: Path, out: Path | None, title: str, job: str) -> None:
    """Draw the event logs in RUN_DIR/events as one HTML page, which needs no network.

    The page shows each peer's lifeline with kills and joins, the owners of chunks, the loss, the tests, the consensus
    distance, the exchanges, and the findings of 'gossip-caffe verify'.

    \b
    gossip-caffe report ~/.local/state/gossip-caffe/clusters/local/run --out run.html
    """
    from gossip_caffe.observe.report.page import report_of

    page = report_of(run_dir, title, job)
    path = out if out is not None else run_dir / "report.html"
    try:
        path.write_text(page)
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot write {path} ({error.strerror})", remedy="give --out a file that can be written"
        ) from None
    say(str(path))
