"""``gossip-caffe job``: what is trained."""

# ruff: noqa: PLC0415 - what is heavy is imported by the command that needs it, so that --help and completion are quick

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gossip_caffe.cli.etcd import etcd_option, with_store
from gossip_caffe.cli.new_job import NewJob, new_job_options, read_spec
from gossip_caffe.cli.output import print_json, print_table

if TYPE_CHECKING:
    from gossip_caffe.job.spec import JobSpec
    from gossip_caffe.membership.etcd_store import EtcdStore


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
@new_job_options
@etcd_option
def create(name: str, solver: str, new: NewJob, etcd: str | None) -> None:
    """Store a job under NAME; every machine that reaches etcd and the data can then train it.

    Caffe builds its nets once before anything is stored, so that a mistake in them is told here.

    \b
    gossip-caffe job create mnist --solver examples/mnist/lenet_solver.prototxt --etcd 10.0.0.5:2379
    """
    from gossip_caffe.membership.jobs import create_job

    spec = read_spec(name, solver, new)
    created = with_store(etcd, lambda store: create_job(store, spec))
    what = "created" if created else "is there already, the same"
    click.echo(f"job {name} {what}: {spec.budget_samples:,} samples of {spec.data.records:,} records")
    click.echo(f"next: gossip-caffe peer start --job {name}")


@job.command()
@click.argument("solver", type=click.Path())
@new_job_options
def validate(solver: str, new: NewJob) -> None:
    """Say whether a SOLVER file and its nets and data can be trained, without a cluster.

    Everything is read as 'job create' reads it, and Caffe builds the nets once. What is wrong is one line.

    \b
    gossip-caffe job validate examples/mnist/lenet_solver.prototxt
    """
    spec = read_spec("validated", solver, new)
    verdict = "can be read (Caffe was not asked)" if new.unchecked else "can be trained"
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
