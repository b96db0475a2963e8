"""``gossip-caffe doctor``: check that this machine, an etcd and a job's needs are in order."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import asyncio
import random
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from gossip_caffe.cli.options.allow_code import allow_code_option, is_allowed
from gossip_caffe.cli.options.data_root import data_root_option
from gossip_caffe.cli.options.etcd import EtcdPlace, endpoints, etcd_options
from gossip_caffe.cli.terminal.output import print_json, print_table, said_on_stderr
from gossip_caffe.errors import ExitCode, GossipCaffeError

if TYPE_CHECKING:
    from gossip_caffe.doctor.check_result import CheckResult
    from gossip_caffe.job.spec.spec import JobSpec
    from gossip_caffe.security.security import Security


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
    from gossip_caffe.doctor.certificate_checks import certificate_checks
    from gossip_caffe.doctor.check_result import can_train
    from gossip_caffe.doctor.machine import machine_checks

    found = machine_checks() + certificate_checks(place.security, job_name or "", time.time())
    if place.etcd is not None or place.cluster or job_name is not None:
        where = endpoints(place)
        found += _etcd(where, place.security)
        if job_name is not None:
            found += _job(place, where, job_name, data_roots, is_allowed(allow_code, ours=place.is_local))
    if as_json:
        print_json([asdict(finding) for finding in found])
    else:
        rows = [(entry.what, entry.mark, entry.found, "" if entry.good else entry.remedy) for entry in found]
        print_table(("WHAT", "", "FOUND", "WHAT TO DO"), rows)
    if not can_train(found):
        sys.exit(int(ExitCode.ENVIRONMENT))


def _etcd(where: tuple[str, ...], security: Security) -> list[CheckResult]:
    from gossip_caffe.clock import SystemClock
    from gossip_caffe.doctor.etcd_checks import etcd_checks
    from gossip_caffe.doctor.etcd_facts import gather_facts

    return etcd_checks(asyncio.run(gather_facts(where, SystemClock(), random.Random(), security)))


def _job(
    place: EtcdPlace, where: tuple[str, ...], name: str, data_roots: tuple[str, ...], allow_code: bool
) -> list[CheckResult]:
    from gossip_caffe.checkpoint.announce import announced
    from gossip_caffe.clock import SystemClock
    from gossip_caffe.doctor.check_result import CheckResult
    from gossip_caffe.doctor.job_checks import job_checks
    from gossip_caffe.doctor.peer_checks import peer_checks
    from gossip_caffe.job.relocation import DataRoot, relocated
    from gossip_caffe.membership.etcd.etcd_store import EtcdStore
    from gossip_caffe.membership.jobs import job_or_only_one
    from gossip_caffe.membership.keys import keys_of
    from gossip_caffe.membership.members import list_members

    clock = SystemClock()

    async def ask() -> tuple[JobSpec, list[CheckResult]]:
        store = EtcdStore(where, clock, random.Random(), security=place.security)
        try:
            spec = await job_or_only_one(store, name)
            keys = keys_of(spec.name)
            members = await list_members(store, keys, said_on_stderr)
            held = await announced(store, keys, said_on_stderr)
            return spec, await peer_checks(members, spec.name, held, clock, place.security)
        finally:
            await store.close()

    try:
        spec, peers = asyncio.run(ask())
    except GossipCaffeError as error:
        return [CheckResult.of_error("job", error)]
    here = relocated(spec, tuple(map(DataRoot.parse, data_roots)))
    on_this_machine = all(endpoint.startswith("unix:") for endpoint in where)
    return [*job_checks(here, allow_code=allow_code, is_local=on_this_machine), *peers]
