"""``gossip-caffe checkpoint``: list, fetch, verify and export a job's checkpoints."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gossip_caffe.cli.options.etcd import EtcdPlace, etcd_options, with_store
from gossip_caffe.cli.options.job import job_option
from gossip_caffe.cli.terminal.output import print_json, print_table, said_on_stderr, transfer
from gossip_caffe.cli.terminal.streams import say
from gossip_caffe.errors import CheckpointRefused, NotFound

if TYPE_CHECKING:
    from gossip_caffe.checkpoint.announce import Announcement
    from gossip_caffe.checkpoint.manifest import Manifest
    from gossip_caffe.job.spec.spec import JobSpec
    from gossip_caffe.membership.etcd.etcd_store import EtcdStore

HEADINGS = ("CHECKPOINT", "ITERATION", "SAMPLES", "MADE", "HOLDERS")
OnBytes = Callable[[int, int], None]

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
    spec, listed = with_store(place, lambda store: _listed(store, job))
    if as_json:
        print_json([_record(spec, entry) for entry in listed])
        return
    rows = [
        (
            entry.checkpoint,
            f"{spec.iteration_at(entry.progress_samples):,}",
            f"{entry.progress_samples:,}",
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.made_at)),
            ", ".join(f"{peer} ({address})" for peer, address in sorted(entry.holders.items())),
        )
        for entry in listed
    ]
    print_table(HEADINGS, rows, f"job {spec.name}")


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
    if what and Path(what).is_dir():
        found = {str(Path(what)): _fault(lambda: _local(Path(what)))}
    else:
        found = with_store(place, lambda store: _verified(store, job, what, shown=not as_json))
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
    from gossip_caffe.checkpoint.export import export as write

    if not prefix.parent.is_dir():
        raise NotFound(f"there is no folder {prefix.parent}", remedy="create it, or give another --to")
    if what and Path(what).is_dir():
        written = write(_local(Path(what)).path, prefix)
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


@dataclass(frozen=True, slots=True)
class LocalCheckpoint:
    """A checkpoint on this machine, whole and verified."""

    manifest: Manifest
    path: Path


def _local(path: Path) -> LocalCheckpoint:
    """Verify a checkpoint's folder on this machine. Raises NotFound or CheckpointRefused."""
    from gossip_caffe.checkpoint.files import CheckpointFolder

    path = path.absolute()
    folder = CheckpointFolder(path.parent, own=False)
    manifest = folder.manifest(path.name)
    folder.load(
        path.name,
        job_fingerprint=manifest.job_fingerprint,
        layout_fingerprint=manifest.weight_layout().fingerprint,
    )
    return LocalCheckpoint(manifest, path)


def _pulled(place: EtcdPlace, job: str, wanted: str, folder: Path, *, shown: bool) -> LocalCheckpoint:
    """Fetch a checkpoint from its holders into ``folder``; a copy that is there already is only verified."""

    async def work(store: EtcdStore) -> LocalCheckpoint:
        from gossip_caffe.checkpoint.files import CheckpointFolder
        from gossip_caffe.gossip.transport.grpc_transport import GrpcTransport
        from gossip_caffe.membership.jobs import job_or_only_one
        from gossip_caffe.peer.outside_access import fetch

        spec = await job_or_only_one(store, job)
        kept = CheckpointFolder(folder, own=False)
        transport = GrpcTransport(store.sockets)
        try:
            with transfer(f"pulling a checkpoint of job {spec.name}", shown=shown) as on_bytes:
                manifest = await fetch(
                    store, transport, spec, wanted, kept, random.Random(), on_bytes, said_on_stderr
                )
        finally:
            await transport.close()
        return LocalCheckpoint(manifest, kept.path(manifest.checkpoint))

    return with_store(place, work)


async def _listed(store: EtcdStore, job: str) -> tuple[JobSpec, list[Announcement]]:
    from gossip_caffe.membership.jobs import job_or_only_one
    from gossip_caffe.membership.keys import JobKeys
    from gossip_caffe.peer.checkpoints.announcing import listed_for

    spec = await job_or_only_one(store, job)
    return spec, await listed_for(store, JobKeys(spec.name), spec.budget_samples, said_on_stderr)


async def _verified(store: EtcdStore, job: str, wanted: str, *, shown: bool) -> dict[str, str]:
    """Verify each holder's copy. Returns the copy's name → its fault; empty when it is whole."""
    from gossip_caffe.checkpoint.files import CheckpointFolder
    from gossip_caffe.gossip.transport.grpc_transport import GrpcTransport
    from gossip_caffe.peer.joining.resuming import chosen
    from gossip_caffe.peer.outside_access import fetch_from

    spec, listed = await _listed(store, job)
    entry = chosen(listed, wanted, spec.name)
    transport, found = GrpcTransport(store.sockets), {}
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


def _record(spec: JobSpec, entry: Announcement) -> dict[str, Any]:
    return {
        "checkpoint": entry.checkpoint,
        "job": spec.name,
        "iteration": spec.iteration_at(entry.progress_samples),
        "progress_samples": entry.progress_samples,
        "made_at": entry.made_at,
        "digest": entry.digest,
        "holders": entry.holders,
    }


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
