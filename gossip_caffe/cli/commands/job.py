"""``gossip-caffe job``: create, check, list and show jobs."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gossip_caffe.cli.options.etcd import EtcdPlace, etcd_options, with_connection, with_store
from gossip_caffe.cli.options.new_job import NewJob, new_job_options, read_spec
from gossip_caffe.cli.options.solver_file import solver_file
from gossip_caffe.cli.terminal.output import print_json, print_table
from gossip_caffe.cli.terminal.streams import say

if TYPE_CHECKING:
    pass


@click.group()
def job() -> None:
    """Create, check, list and show jobs. A job is a model, its data and its settings, stored in etcd.

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
@etcd_options
def create(name: str, solver: str, new: NewJob, place: EtcdPlace) -> None:
    """Store a job under NAME. Every machine that reaches etcd and the data can then train it.

    Caffe builds its nets once before anything is stored, so that a mistake in them is reported here.

    \b
    gossip-caffe job create mnist --solver examples/mnist/lenet_solver.prototxt --etcd 10.0.0.5:2379
    """
    from gossip_caffe.membership.jobs import create_job

    spec = read_spec(name, solver, new)
    created = with_store(place, lambda store: create_job(store, spec))
    verdict = "created" if created else "exists already, and is the same"
    say(f"job {name} {verdict}: {spec.budget_samples:,} samples of {spec.data.records:,} records")
    if not spec.settings.checkpoint_store and not place.is_local:
        say(
            f"note: job {name} has no checkpoint_store: its checkpoints are in the run folders of its peers alone. If "
            "all machines may go at once, with their disks, create it with --set checkpoint_store=URL "
            "(docs/checkpoints.md)"
        )
    say(f"next: gossip-caffe peer start --job {name}")


@job.command()
@solver_file
@new_job_options
def validate(solver: str, new: NewJob) -> None:
    """Check that a SOLVER file, its nets and its data can be trained. No cluster is needed.

    The files and the data are read as 'train' reads them, Caffe builds the nets once, and the folder of the snapshots
    is checked. A mistake is reported in one line.

    \b
    gossip-caffe job validate examples/mnist/lenet_solver.prototxt
    """
    from gossip_caffe.cluster.supervision.snapshot_files import SnapshotFiles
    from gossip_caffe.job.prototxts.snapshots import snapshots_of

    spec = read_spec("validated", solver, new)
    plan = snapshots_of(spec, default_prefix=str(Path(solver).with_suffix("")))
    SnapshotFiles(plan, Path()).check()
    verdict = "can be read (Caffe was not asked)" if new.unchecked else "can be trained"
    say(f"{solver} {verdict}: {spec.budget_samples:,} samples of {spec.data.records:,} records")


@job.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@etcd_options
def list_(as_json: bool, place: EtcdPlace) -> None:
    """List all jobs.

    \b
    gossip-caffe job list --etcd 10.0.0.5:2379 --json
    """
    jobs = with_connection(
        place, "", lambda connection: connection.jobs(lambda error: say(f"gossip-caffe: {error}", err=True))
    )
    if as_json:
        print_json(
            [
                {
                    "name": job.name,
                    "budget_samples": job.budget_samples,
                    "finished": job.finished,
                    "stopped": job.stopped or None,
                }
                for job in jobs
            ]
        )
        return
    rows = [(job.name, f"{job.budget_samples:,}", f"{job.records:,}", job.state) for job in jobs]
    print_table(("JOB", "BUDGET (SAMPLES)", "RECORDS", "STATE"), rows)


@job.command()
@click.argument("name", default="")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@etcd_options
def show(name: str, as_json: bool, place: EtcdPlace) -> None:
    """Show one job's model, data, budget and settings. Without NAME: those of the only job in etcd.

    \b
    gossip-caffe job show mnist --etcd 10.0.0.5:2379
    """
    from gossip_caffe.job.spec.spec import JobSettings
    from gossip_caffe.shards.epochs import Epochs

    spec = with_connection(place, name, lambda connection: connection.spec())
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
        "ranks": spec.ranks,
        **{field: getattr(spec.settings, field) for field in JobSettings.__dataclass_fields__},
    }
    if as_json:
        print_json(figures)
    else:
        print_table(("FIELD", "VALUE"), [(field, str(value)) for field, value in figures.items()])
