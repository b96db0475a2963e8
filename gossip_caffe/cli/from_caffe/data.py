"""``gossip-caffe data``: make a database from pictures or arrays, and look at it, as Caffe's tools do."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gossip_caffe.cli.from_caffe.counting import counting
from gossip_caffe.cli.terminal.output import print_json, print_table
from gossip_caffe.cli.terminal.streams import say
from gossip_caffe.errors import ExitCode

if TYPE_CHECKING:
    from gossip_caffe.data.making.looking import Report

SHOWN_PROBLEMS = 10
SHOWN_LABELS = 40
BAR = 30
"""The length of the longest bar of the histogram."""
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON; all other output goes to stderr."
)
jobs_option = click.option(
    "--jobs", "-j", type=click.IntRange(1, 64), help="The number of processes.  [default: the cores]"
)


@click.group()
def data() -> None:
    """Make the LMDB or LevelDB that a Data layer reads, and look at it.

    \b
    gossip-caffe data create train_lmdb train.txt --resize-height 256 --resize-width 256 --shuffle
    gossip-caffe data check train_lmdb
    gossip-caffe data mean train_lmdb mean.binaryproto
    """


@data.command()
@click.argument("database", metavar="DB", type=click.Path(path_type=Path))
@click.argument("source", metavar="SOURCE", type=click.Path(exists=True))
@click.option(
    "--root", default="", metavar="FOLDER/", help="Put this before each name of the list, as it is."
)
@click.option(
    "--resize-height", "--resize_height", "height", default=0, metavar="PIXELS", help="The new height."
)
@click.option("--resize-width", "--resize_width", "width", default=0, metavar="PIXELS", help="The new width.")
@click.option("--gray", is_flag=True, help="Write one channel.  [default: three, in the order BGR]")
@click.option(
    "--encoded", is_flag=True, help="Keep the pictures' file form, for example JPEG, in the records."
)
@click.option(
    "--encode-type",
    "--encode_type",
    default="",
    metavar="jpg|png|…",
    help="That form.  [default: that of the file]",
)
@click.option("--check-size", "--check_size", is_flag=True, help="Refuse records of unlike shapes.")
@click.option(
    "--shuffle/--no-shuffle",
    default=None,
    help="Mix the order, by --seed.  [default: a list and arrays keep theirs, classes of a folder are mixed]",
)
@click.option("--seed", default=1, show_default=True, help="The seed of the order.")
@click.option(
    "--backend",
    default="lmdb",
    show_default=True,
    type=click.Choice(["lmdb", "leveldb"]),
    help="The database.",
)
@click.option(
    "--skip-unreadable", is_flag=True, help="Leave out pictures that cannot be read, as Caffe does."
)
@jobs_option
@json_option
def create(
    database: Path,
    source: str,
    root: str,
    height: int,
    width: int,
    gray: bool,
    encoded: bool,
    encode_type: str,
    check_size: bool,
    shuffle: bool | None,
    seed: int,
    backend: str,
    skip_unreadable: bool,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Make the database DB from SOURCE, as Caffe's convert_imageset does.

    SOURCE is a list with a picture's name and its label on each line; a folder with a folder of pictures for each
    class; or an NPZ or HDF5 file with an array of data and one of labels. A command that was killed goes on where
    it was when it is given again. DB has its name only when it is whole; before that it is DB.part.

    \b
    gossip-caffe data create train_lmdb train.txt --resize-height 256 --resize-width 256 --shuffle
    gossip-caffe data create train_lmdb pictures/ --encoded
    gossip-caffe data create train_lmdb digits.npz
    """
    from gossip_caffe.data.making.cores import cores
    from gossip_caffe.data.making.create import create as create_database
    from gossip_caffe.data.making.recipe import Pictures, Recipe

    mixes = Path(source).is_dir() if shuffle is None else shuffle
    recipe = Recipe(
        source,
        Pictures(height, width, gray, encoded or bool(encode_type), encode_type.lstrip(".")),
        root,
        seed if mixes else None,
        check_size,
        skip_unreadable,
        backend,
    )
    try:
        with counting("pictures") as count:
            made = create_database(recipe, database, jobs or cores(), count)
    except KeyboardInterrupt:
        say("the same command goes on with the records that are written", err=True)
        raise
    for problem in made.skipped[:SHOWN_PROBLEMS]:
        say(f"left out: {problem}", err=True)
    if more := len(made.skipped[SHOWN_PROBLEMS:]):
        say(f"left out: {more:,} more", err=True)
    if as_json:
        print_json({**dataclasses.asdict(made), "folder": str(made.folder)})
        return
    for label, name in enumerate(made.labels):
        say(f"label {label}: {name}")
    if made.was_there:
        say(f"{database} is whole already; nothing to do")
        return
    went_on = f", of which {made.went_on_at:,} were read before" if made.went_on_at else ""
    say(f"{database}: {made.records:,} records of {made.entries:,} entries{went_on}")


@data.command()
@click.argument("database", metavar="DB", type=click.Path(exists=True))
@click.option("--limit", default=10, show_default=True, type=click.IntRange(1), help="The number of records.")
@json_option
def show(database: str, limit: int, as_json: bool) -> None:
    """Show the number of records in DB, the way in which it was made, and the first records.

    \b
    gossip-caffe data show train_lmdb --limit 3
    """
    from gossip_caffe.data.making.databases import backend_of, count_of
    from gossip_caffe.data.making.looking import first_records
    from gossip_caffe.data.making.side_file import read_side_file

    kind, count, first = backend_of(database), count_of(database), first_records(database, limit)
    side = read_side_file(Path(database))
    if as_json:
        recipe = side.recipe if side else None
        labels = list(side.labels) if side else []
        records = [dataclasses.asdict(one) for one in first]
        print_json({"backend": kind, "records": count, "recipe": recipe, "labels": labels, "first": records})
        return
    made = f", made from {side.recipe['source']}" if side else ""
    title = f"{database}: {kind}, {f'{count:,} records' if count else 'records not counted'}{made}"
    rows = [
        (one.key, str(one.label), "×".join(map(str, one.shape)), one.form, f"{one.size:,}", one.problem)
        for one in first
    ]
    print_table(("KEY", "LABEL", "SHAPE", "FORM", "BYTES", "PROBLEM"), rows, title)


@data.command()
@click.argument("database", metavar="DB", type=click.Path(exists=True))
@click.argument("output", required=False, type=click.Path(dir_okay=False, path_type=Path))
@json_option
def mean(database: str, output: Path | None, as_json: bool) -> None:
    """Compute the mean of DB's records, as Caffe's compute_image_mean does.

    OUTPUT gets it as transform_param.mean_file reads it. The mean of each channel, for mean_value, is printed.

    \b
    gossip-caffe data mean train_lmdb mean.binaryproto
    """
    from gossip_caffe.data.making.looking import mean_of, write_mean

    with counting("records") as count:
        found = mean_of(database, count)
    if output is not None:
        write_mean(output, found)
    channels = [float(value) for value in found.mean(axis=(1, 2), dtype="float64")]
    if as_json:
        print_json(
            {"shape": list(found.shape), "mean_values": channels, "file": str(output) if output else None}
        )
        return
    for number, value in enumerate(channels):
        say(f"mean_value channel [{number}]: {value:.6g}")
    if output is not None:
        say(f"{output}: shape {'×'.join(map(str, found.shape))}")


@data.command()
@click.argument("database", metavar="DB", type=click.Path(exists=True))
@jobs_option
@json_option
def check(database: str, jobs: int | None, as_json: bool) -> None:
    """Decode every record of DB, and show its shapes and a histogram of its labels.

    Exit code 7: some record cannot be decoded; its key is printed.

    \b
    gossip-caffe data check train_lmdb
    """
    from gossip_caffe.data.making.cores import cores
    from gossip_caffe.data.making.looking import check as check_database

    with counting("records") as count:
        report = check_database(database, jobs or cores(), count)
    if as_json:
        print_json(_record(report))
    else:
        _print(database, report)
    if report.bad:
        sys.exit(int(ExitCode.MODEL))


def _record(report: Report) -> dict[str, Any]:
    labels = {str(label): count for label, count in sorted(report.labels.items())}
    forms, shapes = dict(report.forms), dict(report.shapes)
    return {"records": report.records, "bad": report.bad, "forms": forms, "shapes": shapes, "labels": labels}


def _print(database: str, report: Report) -> None:
    bad = f"{len(report.bad):,} cannot be decoded" if report.bad else "all can be decoded"
    say(f"{database}: {report.records:,} records, {bad}")
    for problem in report.bad[:SHOWN_PROBLEMS]:
        say(problem)
    if more := len(report.bad[SHOWN_PROBLEMS:]):
        say(f"… and {more:,} more")
    say("shapes: " + ", ".join(f"{shape} ({count:,})" for shape, count in report.shapes.most_common(5)))
    if len(report.shapes) > 1:
        say(
            f"note: {len(report.shapes):,} unlike shapes need crop_size in the Data layer, or --resize-height/-width"
        )
    if len(report.labels) > SHOWN_LABELS:
        few, many = min(report.labels.values()), max(report.labels.values())
        say(f"{len(report.labels):,} labels, each of {few:,} to {many:,} records; the most frequent ones:")
    most = max(report.labels.values(), default=1)
    rows = [
        (str(label), f"{count:,}", f"{count / max(1, report.records):.1%}", "#" * max(1, count * BAR // most))
        for label, count in _shown(report.labels)
    ]
    print_table(("LABEL", "RECORDS", "SHARE", ""), rows)


def _shown(labels: Counter[int]) -> list[tuple[int, int]]:
    """Return all labels by number, or of many the most frequent ones."""
    return sorted(labels.items()) if len(labels) <= SHOWN_LABELS else labels.most_common(SHOWN_LABELS)
