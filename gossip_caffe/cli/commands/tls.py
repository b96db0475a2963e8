"""``gossip-caffe tls``: certificates for people who have no authority of their own."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gossip_caffe.cli.options.security import security_options
from gossip_caffe.cli.terminal.output import print_json, print_table
from gossip_caffe.cli.terminal.streams import say
from gossip_caffe.errors import UsageError

if TYPE_CHECKING:
    from gossip_caffe.security.certificate import OwnCertificate
    from gossip_caffe.security.security import Security, TlsFiles

CA_FOLDER = "gossip-caffe-ca"
ca_option = click.option(
    "--ca",
    "authority",
    default=CA_FOLDER,
    show_default=True,
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="The folder of the authority: ca.crt, and ca.key, which no other machine needs.",
)


@click.group()
def tls() -> None:
    """Make and show certificates: an authority of your own, and one certificate for each machine.

    \b
    gossip-caffe tls init
    gossip-caffe tls issue gpu1
    gossip-caffe tls show gpu1
    """


@tls.command()
@ca_option
@click.option("--name", default="gossip-caffe", show_default=True, help="The authority's name.")
@click.option("--ttl", default="3650d", show_default=True, metavar="TIME", help="The life of the authority.")
def init(authority: Path, name: str, ttl: str) -> None:
    """Make an authority (CA): the files ca.crt and ca.key.

    A program that can read ca.key can make a certificate for any name, so keep the folder on one machine.

    \b
    gossip-caffe tls init
    """
    from gossip_caffe.security.authority import lifetime, make_authority

    made = make_authority(authority, name, lifetime(ttl, "--ttl"))
    say(f"{made} is the certificate of the authority {name}; {authority}/ca.key stays on this machine")
    say("next: gossip-caffe tls issue NAME, for each peer, and for etcd")


@tls.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--job", default="", help="The only job for which the certificate holds.  [default: any]")
@click.option(
    "--role",
    default="peer",
    show_default=True,
    type=click.Choice(["peer", "viewer", "owner"]),
    help="peer: train under one of these names. viewer, owner: look at a job, and never exchange; etcd's roles give "
    "an owner more.",
)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="HOST",
    help="The address of a server that shows this certificate, such as etcd: a name or an IP address. May be repeated.",
)
@click.option(
    "--ttl", default="720h", show_default=True, metavar="TIME", help="Its life: 720h, 30d, 90m or 60s."
)
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="The folder for ca.crt, tls.crt and tls.key.  [default: the first NAME]",
)
@ca_option
def issue(
    names: tuple[str, ...],
    job: str,
    role: str,
    hosts: tuple[str, ...],
    ttl: str,
    folder: Path | None,
    authority: Path,
) -> None:
    """Make a certificate for the peer NAME, or for several peers of one machine.

    The folder goes to that machine, whose commands get it by --tls-dir. The same command renews the certificate: the
    new files may replace the old ones while the peer trains.

    \b
    gossip-caffe tls issue gpu1
    gossip-caffe tls issue gpu2-p0 gpu2-p1 --job mnist --ttl 24h --out gpu2
    gossip-caffe tls issue etcd --role viewer --host 10.0.0.1
    """
    from gossip_caffe.membership.keys import checked_name
    from gossip_caffe.security.authority import Wanted, checked_hosts, lifetime
    from gossip_caffe.security.authority import issue as issued
    from gossip_caffe.security.identity import Role

    for name in names:
        checked_name(name, "peer")
    if job:
        checked_name(job, "job")
    folder = folder or Path(names[0])
    issued(authority, Wanted(names, Role(role), job, checked_hosts(hosts)), folder, lifetime(ttl, "--ttl"))
    found = _certificate(_files_in(folder))
    say(f"{folder}: ca.crt, tls.crt and tls.key for {found.identity.words}, until {_until(found)}")
    say(f"next: copy the folder to its machine (tls.key is secret), and give --tls-dir {folder} there")


@tls.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@security_options
def show(folder: Path | None, as_json: bool, security: Security) -> None:
    """Show the certificate of a FOLDER, or the one that the options and the environment name.

    It is checked as another machine would: its CA, its dates, its key and its use.

    \b
    gossip-caffe tls show gpu1
    gossip-caffe tls show --json
    """
    files = security.tls if folder is None else _files_in(folder)
    if files is None:
        raise UsageError("no certificate is named", remedy="give a FOLDER, or --tls-dir")
    found = _certificate(files)
    record = _record(files, found)
    if as_json:
        print_json(record)
        return
    print_table(("WHAT", "FOUND"), [(key.replace("_", " "), _text(value)) for key, value in record.items()])


def _files_in(folder: Path) -> TlsFiles:
    from gossip_caffe.security.files import check_files, files_in

    files = files_in(folder.absolute(), "FOLDER")
    check_files(files)
    return files


def _certificate(files: TlsFiles) -> OwnCertificate:
    from gossip_caffe.security.certificate import own_certificate

    return own_certificate(files)


def _until(found: OwnCertificate) -> str:
    from gossip_caffe.security.certificate import date

    return date(found.ends_s)


def _record(files: TlsFiles, found: OwnCertificate) -> dict[str, Any]:
    from gossip_caffe.security.certificate import date

    left_s = found.ends_s - time.time()
    return {
        "names": list(found.identity.names),
        "common_name": found.identity.common_name,
        "role": found.identity.role.value,
        "job": found.identity.job or "any",
        "authority": found.issuer,
        "serial": found.serial,
        "from": date(found.begins_s),
        "until": date(found.ends_s),
        "hours_left": round(left_s / 3600, 1),
        "files": [str(files.cacert), str(files.cert), str(files.key)],
    }


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
