"""``gossip-caffe job``: what is trained."""

# ruff: noqa: PLC0415 - what is heavy is imported by the command that needs it, so that --help and completion are quick

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gossip_caffe.cli.etcd import etcd_option, with_store
from gossip_caffe.cli.output import print_json, print_table, told_when_slow
from gossip_caffe.errors import ExitCode, ModelError, UsageError

if TYPE_CHECKING:
    from gossip_caffe.job.spec import JobSpec
    from gossip_caffe.membership.etcd_store import EtcdStore


unchecked_option = click.option(
    "--unchecked", is_flag=True, help="Do not let Caffe build the nets first: for a machine without pycaffe."
)


weights_option = click.option(
    "--weights", default="", metavar="FILE[,FILE…]", help="Begin with these .caffemodel files, by layer name."
)
resume_option = click.option(
    "--resume", default="", metavar="FILE", help="Go on from the .solverstate of a plain Caffe."
)
dataset_option = click.option(
    "--dataset",
    default="",
    metavar="MODULE:CALLABLE",
    help="What fills Input and MemoryData layers: docs/data.md.",
)


@dataclass(frozen=True, slots=True)
class JobFiles:
    """What a job is made of, as options name it. ``settings``: "name=value" each."""

    solver: str
    settings: tuple[str, ...] = ()
    weights: str = ""
    resume: str = ""
    dataset: str = ""


def read_spec(name: str, files: JobFiles, *, checked: bool = True) -> JobSpec:
    """The job of a solver file with ``--set name=value`` settings; Caffe builds its nets once, unless not ``checked``.

    Raises UsageError, ModelError or DataError, and EnvironmentProblem without a Caffe.
    """
    try:
        return _read_spec(name, files, checked=checked)
    except ModelError as error:
        # Nothing was started yet: wrong files are as wrong words of the command are.
        error.exit_code = ExitCode.USAGE
        raise


def _read_spec(name: str, files: JobFiles, *, checked: bool) -> JobSpec:
    from gossip_caffe.data.source import measure
    from gossip_caffe.job.checks import check_loss
    from gossip_caffe.job.notices import notices
    from gossip_caffe.job.reading import job_of, read_model
    from gossip_caffe.job.spec import JobSettings, with_overrides
    from gossip_caffe.job.starting import read_start
    from gossip_caffe.job.testing import plan_of
    from gossip_caffe.membership.keys import checked_name
    from gossip_caffe.solver.trial import try_with_caffe

    overrides = {}
    for entry in files.settings:
        key, equals, value = entry.partition("=")
        if not equals:
            raise UsageError(f"--set {entry}: no value", remedy="write --set NAME=VALUE")
        overrides[key.strip()] = value.strip()
    checked_name(name, "job")
    chosen = with_overrides(JobSettings(), overrides)
    model = read_model(Path(files.solver))
    with told_when_slow("looking at the data …"):
        start = read_start(model.solver, model.paths, [files.weights] if files.weights else [], files.resume)
        spec = job_of(name, model, chosen, measure, start, files.dataset)
    if checked:
        news = "Caffe builds the nets once, to see that they stand …"
        try_with_caffe(model, spec, measure, lambda: click.echo(news, err=True))
    else:
        check_loss(model.train)
    for notice in notices(model, spec):
        click.echo(notice, err=True)
    if why_not := plan_of(spec).why_not:
        click.echo(f"the consensus will not be tested: {why_not}", err=True)
    return spec


def named_after(solver: str) -> str:
    """A name for the job of a solver file."""
    return re.sub(r"[^a-z0-9._-]+", "-", Path(solver).stem.lower()).strip("-._")[:50] or "job"


@click.group()
def job() -> None:
    """Create and look at jobs: a model, its data and its settings, stored in etcd.

    \b
    gossip-caffe job create mnist --solver lenet_solver.prototxt --etcd 10.0.0.5:2379
    gossip-caffe job list --etcd 10.0.0.5:2379
    gossip-caffe job show mnist --etcd 10.0.0.5:2379
    """


@job.command()
@click.argument("name")
@click.option(
    "--solver", required=True, type=click.Path(), help="The solver.prototxt that `caffe train` takes."
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting; see docs/cli.md.")
@weights_option
@resume_option
@dataset_option
@unchecked_option
@etcd_option
def create(
    name: str,
    solver: str,
    settings: tuple[str, ...],
    weights: str,
    resume: str,
    dataset: str,
    unchecked: bool,
    etcd: str | None,
) -> None:
    """Store a job under NAME; every machine that reaches etcd and the data can then train it.

    Caffe builds its nets once before anything is stored, so that a mistake in them is told here.

    \b
    gossip-caffe job create mnist --solver examples/mnist/lenet_solver.prototxt --etcd 10.0.0.5:2379
    """
    from gossip_caffe.membership.jobs import create_job

    spec = read_spec(name, JobFiles(solver, settings, weights, resume, dataset), checked=not unchecked)
    new = with_store(etcd, lambda store: create_job(store, spec))
    what = "created" if new else "is there already, the same"
    click.echo(f"job {name} {what}: {spec.budget_samples:,} samples of {spec.data.records:,} records")
    click.echo(f"next: gossip-caffe peer start --job {name}")


@job.command()
@click.argument("solver", type=click.Path())
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting; see docs/cli.md.")
@weights_option
@resume_option
@dataset_option
@unchecked_option
def validate(
    solver: str, settings: tuple[str, ...], weights: str, resume: str, dataset: str, unchecked: bool
) -> None:
    """Say whether a SOLVER file and its nets and data can be trained, without a cluster.

    Everything is read as 'job create' reads it, and Caffe builds the nets once. What is wrong is one line.

    \b
    gossip-caffe job validate examples/mnist/lenet_solver.prototxt
    """
    files = JobFiles(solver, settings, weights, resume, dataset)
    spec = read_spec("validated", files, checked=not unchecked)
    verdict = "can be read (Caffe was not asked)" if unchecked else "can be trained"
    click.echo(f"{solver} {verdict}: {spec.budget_samples:,} samples of {spec.data.records:,} records")


@job.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@etcd_option
def list_(as_json: bool, etcd: str | None) -> None:
    """List all jobs.

    \b
    gossip-caffe job list --etcd 10.0.0.5:2379 --json
    """
    from gossip_caffe.membership.jobs import list_jobs, load_job
    from gossip_caffe.membership.keys import JobKeys

    async def read(store: EtcdStore) -> list[tuple[JobSpec, bool]]:
        names = await list_jobs(store)
        return [
            (await load_job(store, name), await store.get(JobKeys(name).finished) is not None)
            for name in names
        ]

    jobs = with_store(etcd, read)
    if as_json:
        print_json(
            [
                {"name": spec.name, "budget_samples": spec.budget_samples, "finished": end}
                for spec, end in jobs
            ]
        )
        return
    rows = [
        (spec.name, f"{spec.budget_samples:,}", f"{spec.data.records:,}", "finished" if end else "open")
        for spec, end in jobs
    ]
    print_table(("JOB", "BUDGET (SAMPLES)", "RECORDS", "STATE"), rows)


@job.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@etcd_option
def show(name: str, as_json: bool, etcd: str | None) -> None:
    """Show one job.

    \b
    gossip-caffe job show mnist --etcd 10.0.0.5:2379
    """
    from gossip_caffe.job.spec import JobSettings
    from gossip_caffe.membership.jobs import load_job
    from gossip_caffe.shards.epochs import Epochs

    spec = with_store(etcd, lambda store: load_job(store, name))
    figures = {
        "name": spec.name,
        "fingerprint": spec.fingerprint[:16],
        "solver": spec.solver_type,
        "data": ", ".join(source.path for source in spec.data.sources) or "made by the net",
        "records": spec.data.records,
        "chunks": Epochs.of(spec).chunks,
        "chunk_records": spec.data.chunk_records,
        "batch_records": spec.data.batch_records,
        "iter_size": spec.iter_size,
        "budget_samples": spec.budget_samples,
        "begins_with": ", ".join(file.path for file in spec.start.files) or "fresh weights",
        "learning_rate": f"{spec.schedule.policy} from {spec.schedule.base_lr:g}",
        **{field: getattr(spec.settings, field) for field in JobSettings.__dataclass_fields__},
    }
    if as_json:
        print_json(figures)
    else:
        print_table(("FIELD", "VALUE"), [(field, str(value)) for field, value in figures.items()])
