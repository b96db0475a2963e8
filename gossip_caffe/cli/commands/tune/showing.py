"""``gossip-caffe tune status``, ``best``, ``report``, ``export`` and ``stop``."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gossip_caffe.cli.commands.tune.reading import (
    endpoint_of,
    found_study,
    is_given,
    local_study,
    study_screen,
)
from gossip_caffe.cli.options.etcd import EtcdPlace, etcd_options, with_store
from gossip_caffe.cli.terminal.output import print_json, print_table
from gossip_caffe.cli.terminal.streams import say
from gossip_caffe.errors import EnvironmentProblem, NotFound

if TYPE_CHECKING:
    from gossip_caffe.membership.etcd.etcd_store import EtcdStore
    from gossip_caffe.tune.board.trial import TrialRecord
    from gossip_caffe.tune.views.summary import Summary

study_option = click.option("--study", default="", help="The study. [default: the only one]")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
WATCH_EVERY_S = 1.0


@click.command()
@study_option
@click.option("--watch", is_flag=True, help="Show the table until the study has ended.")
@json_option
@etcd_options
def status(study: str, watch: bool, as_json: bool, place: EtcdPlace) -> None:
    """Show a study's trials: state, value, tests, samples, values, and the workers that train them.

    \b
    gossip-caffe tune status --study digits
    gossip-caffe tune status --study digits --etcd 10.0.0.5:2379 --watch
    """
    from gossip_caffe.tune.views.table import headings, headline, rows

    summary = found_study(study, place)
    if as_json:
        print_json(summary.to_record())
        return
    if watch:
        with study_screen() as screen:
            while True:
                screen.look(summary)
                if summary.ended or summary.board.stopped:
                    break
                time.sleep(WATCH_EVERY_S)
                summary = found_study(study, place)
    print_table(headings(summary), rows(summary), headline(summary))


@click.command()
@study_option
@json_option
@etcd_options
def best(study: str, as_json: bool, place: EtcdPlace) -> None:
    """Print the best complete trial: its value and its settings.

    \b
    gossip-caffe tune best --study digits
    """
    summary = found_study(study, place)
    trial = _chosen(summary, None)
    if as_json:
        print_json({"trial": trial.number, "value": trial.value, "values": trial.values, "job": trial.job})
        return
    for line in last_lines(summary):
        say(line)


@click.command()
@study_option
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write.  [default: STUDY.html]",
)
@etcd_options
def report(study: str, out: Path | None, place: EtcdPlace) -> None:
    """Draw a study as one HTML page: history, learning curves, parallel coordinates, importance, all trials.

    \b
    gossip-caffe tune report --study digits --out digits.html
    """
    from gossip_caffe.tune.views.page import study_page

    summary = found_study(study, place)
    path = out if out is not None else Path(f"{summary.study.name}.html")
    try:
        path.write_text(study_page(summary))
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot write {path} ({error.strerror})", remedy="give --out a file that can be written"
        ) from None
    say(str(path))


@click.command()
@study_option
@click.option("--trial", "number", type=click.IntRange(0), help="The trial. [default: the best one]")
@click.option(
    "--to",
    "folder",
    default="best",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder to write to.",
)
@etcd_options
def export(study: str, number: int | None, folder: Path, place: EtcdPlace) -> None:
    """Write a trial's solver and nets as prototxts, and its weights as model.caffemodel.

    The prototxts are yours with the trial's values; all other text in them is as you wrote it. Run the next command in
    the folder in which the study was made, where the paths in your prototxts begin.

    \b
    gossip-caffe tune export --study digits --to best
    gossip-caffe train best/solver.prototxt --weights best/model.caffemodel
    """
    from gossip_caffe.data.sources.source import measure
    from gossip_caffe.tune.views.export import SOLVER, trial_files, write_files, write_model

    summary = found_study(study, place)
    trial = _chosen(summary, number)
    files = trial_files(summary.study, trial, folder, measure)
    write_files(files)
    for path in files:
        say(str(path))
    if trial.checkpoint:
        say(str(write_model(summary.study, trial, folder)))
        say(f"next: gossip-caffe train {folder / SOLVER} --weights {folder / 'model.caffemodel'}")
    else:
        say(f"trial {trial.number} is {trial.state.value}: it has no last weights")


@click.command()
@study_option
@etcd_options
def stop(study: str, place: EtcdPlace) -> None:
    """Stop a study: its workers leave, and its running trials keep their checkpoints.

    'tune run' of the same file, and 'tune work' after 'tune create' of the same file, go on with it.

    \b
    gossip-caffe tune stop --study digits --etcd 10.0.0.5:2379
    """
    from gossip_caffe.tune.board.studies import load_study, only_study, stop_study

    if not is_given(place):
        state = local_study(study)
        if not state.taken:
            raise NotFound(
                f"study {state.name.removeprefix('tune-')!r} does not run", remedy="nothing is to be done"
            )
        study, place = state.name.removeprefix("tune-"), endpoint_of(state)

    async def told(store: EtcdStore) -> tuple[str, bool]:
        name = (await load_study(store, study or await only_study(store))).name
        return name, await stop_study(store, name, "tune stop")

    name, stopped = with_store(place, told)
    say(f"study {name} {'is stopped: its workers leave' if stopped else 'was stopped already'}")


def last_lines(summary: Summary) -> list[str]:
    """The lines at the end of a study, or of ``best``."""
    from gossip_caffe.tune.views.table import described, headline

    lines = [headline(summary)]
    if (trial := summary.best) is not None:
        lines.append(f"best: trial {trial.number}: {described(trial)}")
        lines.append(f"next: gossip-caffe tune export --study {summary.study.name} --to best")
    return lines


def _chosen(summary: Summary, number: int | None) -> TrialRecord:
    if number is not None:
        if (trial := summary.board.trials.get(number)) is None:
            raise NotFound(
                f"study {summary.study.name} has no trial {number}", remedy="see 'gossip-caffe tune status'"
            )
        return trial
    if summary.best is None:
        raise NotFound(
            f"study {summary.study.name} has no complete trial yet", remedy="wait for one, or give --trial N"
        )
    return summary.best
