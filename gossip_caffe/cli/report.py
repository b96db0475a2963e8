"""``gossip-caffe report``: a run as one page."""

# ruff: noqa: PLC0415 - what is heavy is imported by the command that needs it, so that --help and completion are quick

from __future__ import annotations

from pathlib import Path

import click

from gossip_caffe.errors import EnvironmentProblem


@click.command()
@click.argument("run_dir", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the page goes.  [default: RUN_DIR/report.html]",
)
@click.option("--title", default="", help="What stands above it.")
def report(run_dir: Path, out: Path | None, title: str) -> None:
    """Draw the event logs in RUN_DIR/events as one HTML page, which needs no network.

    Lifelines of the peers with kills and joins, who owned chunks, loss, tests, consensus distance, exchanges, and what
    'gossip-caffe verify' finds.

    \b
    gossip-caffe report ~/.local/state/gossip-caffe/clusters/local/run --out run.html
    """
    from gossip_caffe.observe.report import report_of

    page = report_of(run_dir, title)
    path = out if out is not None else run_dir / "report.html"
    try:
        path.write_text(page)
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot write {path} ({error.strerror})", remedy="give --out a file that can be written"
        ) from None
    click.echo(path)
