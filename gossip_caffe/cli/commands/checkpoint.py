"""``gossip-caffe checkpoint``: list, fetch, verify and export a job's checkpoints."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gossip_caffe.cli.options.etcd import EtcdPlace, etcd_options, with_connection
from gossip_caffe.cli.options.job import job_option
from gossip_caffe.cli.terminal.output import print_json, print_table, said_on_stderr, transfer
from gossip_caffe.cli.terminal.streams import say
from gossip_caffe.errors import CheckpointRefused, NotFound

if TYPE_CHECKING:
    from gossip_caffe.api.checkpoints import Checkpoints, LocalCheckpoint
    from gossip_caffe.api.connection import Connection
    from gossip_caffe.checkpoint.manifest import Manifest

HEADINGS = ("CHECKPOINT", "ITERATION", "SAMPLES", "MADE", "HOLDERS")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def checkpoint() -> None:
    """List a job's checkpoints, fetch them, verify them, and export them for plain Caffe.

    ID is the name of a checkpoint or the beginning of its name. Default: the newest. Where a command takes FOLDER, it
    is the folder of a checkpoint on this machine; etcd is not needed then.

    \b
    gossip-caffe checkpoint list
    gossip-caffe checkpoint export --to lenet --etcd 10.0.0.5:2379
    """


@checkpoint.command("list")
@job_option
@json_option
@etcd_options
def list_(job: str, as_json: bool, place: EtcdPlace) -> None:
    """List the checkpoints of a job, the newest first, with the peers that hold them.

    \b
    gossip-caffe checkpoint list --job mnist --etcd 10.0.0.5:2379
    """
    name, listed = with_connection(place, job, _listed)
    if as_json:
        print_json([entry.to_record() for entry in listed])
    else:
        print_table(HEADINGS, [entry.row() for entry in listed], f"job {name}")


@checkpoint.command()
@click.argument("wanted", metavar="[ID]", default="")
@click.option(
    "--to",
    "folder",
    default="checkpoints",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder in which the checkpoint's own folder is created.",
)
@job_option
@json_option
@etcd_options
def pull(wanted: str, folder: Path, job: str, as_json: bool, place: EtcdPlace) -> None:
    """Fetch a checkpoint from one of the peers that hold it, and verify it.

    This machine has to reach etcd and one of the holders; it need not be a peer. A copy that is here already and whole
    is not fetched again.

    \b
    gossip-caffe checkpoint pull --to here --etcd 10.0.0.5:2379
    """
    pulled = _pulled(place, job, wanted, folder, shown=not as_json)
    if as_json:
        print_json(_description(pulled.manifest, pulled.path))
    else:
        say(f"{pulled.path} is whole ({_bytes(pulled.manifest)})")


@checkpoint.command()
@click.argument("what", metavar="[ID|FOLDER]", default="")
@job_option
@json_option
@etcd_options
def verify(what: str, job: str, as_json: bool, place: EtcdPlace) -> None:
    """Verify a checkpoint: its folder on this machine, or the copy of every holder.

    Each file's size and BLAKE3 digest, the model and every weight are checked. A holder's copy is fetched and deleted
    again. The command fails when any copy is not whole.

    \b
    gossip-caffe checkpoint verify checkpoints/00000000117811-p0-198e
    gossip-caffe checkpoint verify --job mnist --etcd 10.0.0.5:2379
    """
    from gossip_caffe.api.checkpoints import checkpoint_in

    if what and Path(what).is_dir():
        found = {str(Path(what)): _fault(lambda: checkpoint_in(Path(what)))}
    else:
        found = with_connection(place, job, lambda connection: _verified(connection, what, shown=not as_json))
    if as_json:
        print_json(
            [{"copy": copy, "whole": not fault, "fault": fault or None} for copy, fault in found.items()]
        )
    else:
        for copy, fault in found.items():
            say(f"{copy}: {fault or 'whole'}")
    broken = [copy for copy, fault in found.items() if fault]
    if broken or not found:
        raise CheckpointRefused(
            f"{len(broken)} of {len(found)} copies cannot be used ({', '.join(broken)})",
            remedy="use another checkpoint; see 'gossip-caffe checkpoint list'",
        )


@checkpoint.command()
@click.argument("what", metavar="[ID|FOLDER]", default="")
@click.option(
    "--to",
    "prefix",
    required=True,
    type=click.Path(path_type=Path),
    help="PREFIX: the files are PREFIX.caffemodel and PREFIX.solverstate.",
)
@job_option
@json_option
@etcd_options
def export(what: str, prefix: Path, job: str, as_json: bool, place: EtcdPlace) -> None:
    """Write a checkpoint's weights and momentum as files of plain Caffe.

    'caffe train --snapshot PREFIX.solverstate' continues from it, caffe.Net(prototxt, "PREFIX.caffemodel", caffe.TEST)
    loads it.

    \b
    gossip-caffe checkpoint export --to lenet
    gossip-caffe checkpoint export checkpoints/00000000117811-p0-198e --to lenet
    """
    from gossip_caffe.api.checkpoints import checkpoint_in
    from gossip_caffe.checkpoint.export import export as write

    if not prefix.parent.is_dir():
        raise NotFound(f"there is no folder {prefix.parent}", remedy="create it, or give another --to")
    if what and Path(what).is_dir():
        written = write(checkpoint_in(Path(what)).path, prefix)
    else:
        with tempfile.TemporaryDirectory(prefix="gossip-caffe-", dir=prefix.parent) as scratch:
            written = write(_pulled(place, job, what, Path(scratch), shown=not as_json).path, prefix)
    if as_json:
        print_json([str(path) for path in written])
        return
    for path in written:
        say(str(path))
    if len(written) == 1:
        say("the checkpoint has no momentum: no .solverstate is written", err=True)


def _pulled(place: EtcdPlace, job: str, wanted: str, folder: Path, *, shown: bool) -> LocalCheckpoint:
    """Fetch a checkpoint from its holders into ``folder``; a copy that is there already is only verified."""

    async def work(connection: Connection) -> LocalCheckpoint:
        from gossip_caffe.api.checkpoints import pulled

        spec = await connection.spec()
        with transfer(f"pulling a checkpoint of job {spec.name}", shown=shown) as on_bytes:
            return await pulled(connection.store, spec, wanted, folder, on_bytes, said_on_stderr)

    return with_connection(place, job, work)


async def _listed(connection: Connection) -> tuple[str, Checkpoints]:
    return (await connection.spec()).name, await connection.checkpoints()


async def _verified(connection: Connection, wanted: str, *, shown: bool) -> dict[str, str]:
    """Verify each holder's copy. Returns the copy's name → its fault; empty when it is whole."""
    from gossip_caffe.checkpoint.files import CheckpointFolder
    from gossip_caffe.gossip.transport.grpc_transport import GrpcTransport
    from gossip_caffe.peer.outside_access import fetch_from

    spec = await connection.spec()
    entry = (await connection.checkpoints()).named(wanted).entry
    transport, found = GrpcTransport(connection.store.sockets, security=connection.store.security), {}
    try:
        for peer, address in sorted(entry.holders.items()):
            with tempfile.TemporaryDirectory(prefix="gossip-caffe-") as scratch:
                name = f"{entry.checkpoint} at {peer} ({address})"
                with transfer(f"reading {name}", shown=shown) as on_bytes:
                    alone = replace(entry, holders={peer: address})
                    folder = CheckpointFolder(Path(scratch))
                    try:
                        await fetch_from(transport, spec, alone, folder, random.Random(), on_bytes)
                        found[name] = ""
                    except (CheckpointRefused, NotFound) as error:
                        found[name] = error.message
    finally:
        await transport.close()
    return found


def _fault(check: Callable[[], object]) -> str:
    try:
        check()
    except (CheckpointRefused, NotFound) as error:
        return error.message
    return ""


def _description(manifest: Manifest, path: Path) -> dict[str, Any]:
    return {
        "checkpoint": manifest.checkpoint,
        "job": manifest.job,
        "path": str(path),
        "progress_samples": manifest.progress_samples,
        "contributors": manifest.contributors,
        "digest": manifest.digest,
        "files": {entry.name: entry.size_bytes for entry in manifest.files},
    }


def _bytes(manifest: Manifest) -> str:
    size = sum(entry.size_bytes for entry in manifest.files)
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size:,} bytes"
