"""``gossip-caffe doctor``: check that this machine, an etcd and a job's needs are in order."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict

import click

from gossip_caffe.cli.options.allow_code import allow_code_option
from gossip_caffe.cli.options.data_root import data_root_option
from gossip_caffe.cli.options.etcd import EtcdPlace, etcd_options
from gossip_caffe.cli.terminal.output import print_json, print_table, said_on_stderr
from gossip_caffe.errors import ExitCode


@click.command()
@click.option(
    "--job",
    "job_name",
    is_flag=False,
    flag_value="",
    metavar="[NAME]",
    help="Check what this job needs here: data, memory, its peers. Without NAME: the only job in etcd.",
)
@data_root_option
@allow_code_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@etcd_options
def doctor(
    job_name: str | None,
    data_roots: tuple[str, ...],
    allow_code: bool | None,
    as_json: bool,
    place: EtcdPlace,
) -> None:
    """Check that this machine has all that a peer needs, and print a remedy for each lack.

    With --etcd or --name, each member of that etcd is checked: version, leader, space, alarms, clock, speed, and
    whether this machine may write. With --tls-dir or --cert, the certificate is checked: its authority, dates, names,
    role and job. With --job, the job is checked from here: its data by number and fingerprint, its store of
    checkpoints, the memory of a peer, and whether its living peers can be reached on both ports.

    Exit code 6: something is missing that every peer needs.

    \b
    gossip-caffe doctor --json
    gossip-caffe doctor --etcd 10.0.0.5:2379 --job mnist --data-root /data=/mnt/data
    """
    from gossip_caffe.api.checking import HEADINGS, check

    found = asyncio.run(
        check(
            place.etcd,
            cluster=place.cluster,
            job=job_name,
            data_roots=data_roots,
            allow_code=allow_code,
            security=place.security,
            ignored=said_on_stderr,
        )
    )
    if as_json:
        print_json([asdict(finding) for finding in found])
    else:
        print_table(HEADINGS, found.rows())
    if not found.can_train:
        sys.exit(int(ExitCode.ENVIRONMENT))
