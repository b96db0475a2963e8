"""``gossip-caffe tune``: search for good settings of a model, with many trials on machines that come and go."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gossip_caffe.cli.commands.tune.reading import StudyScreen, checked_study, study_screen
from gossip_caffe.cli.commands.tune.showing import best, export, last_lines, report, status, stop
from gossip_caffe.cli.options.allow_code import allow_code_arguments, allow_code_option, is_allowed
from gossip_caffe.cli.options.data_root import data_root_option
from gossip_caffe.cli.options.etcd import EtcdPlace, endpoints, etcd_options, is_local, with_store
from gossip_caffe.cli.options.gpus import gpus_of, gpus_option
from gossip_caffe.cli.options.local_cluster import data_root_arguments
from gossip_caffe.cli.terminal.output import print_json
from gossip_caffe.cli.terminal.streams import never_wait_for_readers, say
from gossip_caffe.system.signals import left_on_signals

if TYPE_CHECKING:
    from gossip_caffe.errors import ExitCode
    from gossip_caffe.membership.etcd.etcd_store import EtcdStore
    from gossip_caffe.tune.local import LocalOptions

join_option = click.option(
    "--join/--no-join",
    "may_help",
    default=True,
    show_default=True,
    help="A worker that has no trial to begin joins the most promising running one as a further peer, and leaves it "
    "when a new one can begin.",
)
unchecked_option = click.option(
    "--unchecked",
    is_flag=True,
    help="Skip the check in which Caffe builds a few nets of the space: for a machine without pycaffe.",
)
study_file = click.argument("study_file", metavar="STUDY.toml", type=click.Path(path_type=Path))


@click.group()
def tune() -> None:
    """Search for good settings of a model: each trial is a job, and each worker trains trials, one after another.

    A study file names the solver, the fields that are tried with their ranges, and what is optimised (docs/tune.md).
    Workers may be started and killed at any time: the trial of a dead worker goes on from its checkpoint at another.

    \b
    On this machine:     gossip-caffe tune run study.toml --workers 2
    On many machines:    gossip-caffe tune create study.toml --etcd HOST:2379
                         gossip-caffe tune work --study NAME --etcd HOST:2379      (on each of them)
    What it found:       gossip-caffe tune status | best | report | export
    """


@tune.command()
@study_file
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    help="The number of workers.  [default: 2, or one for each of --gpus]",
)
@gpus_option
@join_option
@unchecked_option
@allow_code_option
@click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON; all other output goes to stderr."
)
@click.option("--engine", default="pycaffe", type=click.Choice(["pycaffe", "numpy"]), hidden=True)
def run(
    study_file: Path,
    workers: int | None,
    gpus: str,
    may_help: bool,
    unchecked: bool,
    allow_code: bool | None,
    as_json: bool,
    engine: str,
) -> None:
    """Run a study on this machine until all of its trials have ended.

    etcd and the workers run only as long as the command; a worker that is killed is replaced. After Ctrl-C the same
    command goes on with the study. Its trials, logs and checkpoints are in the state folder, under clusters/tune-NAME.

    \b
    gossip-caffe tune run study.toml --workers 2
    gossip-caffe tune run study.toml --workers 4 --gpus 0,1,2,3
    """
    from gossip_caffe.tune.local import LocalOptions, state_of
    from gossip_caffe.tune.search.optuna_import import require_optuna
    from gossip_caffe.tune.views.summary import FILE, read_summary

    require_optuna()
    gpu_numbers, count = gpus_of(gpus, workers, 2, engine)

    def own_store(name: str) -> str:
        return f"file://{state_of(name).folder.absolute()}/store"

    spec = checked_study(study_file, own_store, checked=engine == "pycaffe" and not unchecked)
    of_workers = (
        *allow_code_arguments(allow_code),
        *(() if may_help else ("--no-join",)),
        *(("--engine", engine) if engine != "pycaffe" else ()),
    )
    options = LocalOptions(spec, count, of_workers, gpu_numbers)
    with study_screen(to_stderr=as_json) as screen:
        code = asyncio.run(_run(options, screen))
    summary = read_summary(state_of(spec.name).folder / FILE)
    if as_json:
        print_json(summary.to_record())
    else:
        for line in last_lines(summary):
            say(line)
    sys.exit(code)


async def _run(options: LocalOptions, screen: StudyScreen) -> ExitCode:
    from gossip_caffe.system.signals import Action, ending_signals, on_signal
    from gossip_caffe.tune.local import LocalStudy

    never_wait_for_readers()
    study = LocalStudy(options, screen.say, screen.look)
    loop, asked = asyncio.get_running_loop(), list[str]()

    def heard(number: signal.Signals) -> None:
        decision = on_signal(number, leaving=bool(asked))
        if decision.action is not Action.NOTHING:
            asked.append(decision.reason)
            study.leave(decision.reason)

    for number in ending_signals():
        loop.add_signal_handler(number, heard, number)
    return await study.run()


@tune.command()
@study_file
@unchecked_option
@etcd_options
def create(study_file: Path, unchecked: bool, place: EtcdPlace) -> None:
    """Store a study in etcd, so that workers on any machine can take part.

    The study file must name a 'store' for checkpoints that all workers reach (a shared folder, S3, GCS …): the trial of
    a dead worker goes on from there. The data must be at the same paths on all machines.

    \b
    gossip-caffe tune create study.toml --etcd 10.0.0.5:2379
    """
    from gossip_caffe.errors import UsageError
    from gossip_caffe.tune.board.studies import create_study, go_on

    def no_store(name: str) -> str:
        raise UsageError(
            f"{study_file}: study {name} names no store, from which a dead worker's trial could go on",
            remedy='write store = "file:///folder/that/all/machines/share", or "s3://bucket/path"',
        )

    spec = checked_study(study_file, no_store, checked=not unchecked)

    async def make(store: EtcdStore) -> bool:
        created = await create_study(store, spec)
        await go_on(store, spec.name)
        return created

    created = with_store(place, make)
    say(
        f"study {spec.name} {'created' if created else 'exists already, and is the same'}: {spec.trials} trials"
    )
    say(f"next: gossip-caffe tune work --study {spec.name}")


@tune.command()
@click.option("--study", default="", help="The study. [default: the only one in etcd]")
@click.option("--worker", default="", help="This worker's name. Default: a random name.")
@click.option(
    "--run-dir",
    default="gossip-caffe-run",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The folder for the events and checkpoints of the trials' jobs, each in a folder of its own.",
)
@click.option("--gpu", default="", metavar="N|auto", help="Train on this NVIDIA GPU. Default: on the CPU.")
@join_option
@data_root_option
@allow_code_option
@click.option("--engine", default="pycaffe", type=click.Choice(["pycaffe", "numpy"]), hidden=True)
@etcd_options
def work(
    study: str,
    worker: str,
    run_dir: Path,
    gpu: str,
    may_help: bool,
    data_roots: tuple[str, ...],
    allow_code: bool | None,
    engine: str,
    place: EtcdPlace,
) -> None:
    """Work on a study: begin trials, take over those of dead workers, and help in running ones, until all have ended.

    Start as many workers as you like, by hand, as a Slurm array or a Kubernetes Job. At Ctrl-C, SIGTERM, SIGHUP or
    SIGUSR1 the worker leaves, and its trial goes on at another one. The exit code is 0 when the study has ended, and 75
    when the worker left before.

    \b
    gossip-caffe tune work --study digits --etcd 10.0.0.5:2379
    gossip-caffe tune work --study digits --etcd 10.0.0.5:2379 --gpu auto --run-dir /scratch/digits
    """
    with left_on_signals():
        from gossip_caffe.solver.gpu.device import parse_gpu
        from gossip_caffe.tune.search.optuna_import import require_optuna
        from gossip_caffe.tune.work.run import WorkerOptions, run_worker

        require_optuna()
        if gpu:
            parse_gpu(gpu, "--gpu")
        where = endpoints(place)
        allowed = is_allowed(allow_code, ours=is_local(",".join(where)))
        of_peers = (
            *(("--gpu", gpu) if gpu else ()),
            *data_root_arguments(data_roots),
            *allow_code_arguments(allowed),
        )
        never_wait_for_readers()
        options = WorkerOptions(where, run_dir, study, worker, may_help, engine, of_peers, place.security)
        sys.exit(run_worker(options, say))


for command in (status, best, report, export, stop):
    tune.add_command(command)
