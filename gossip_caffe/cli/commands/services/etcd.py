"""``gossip-caffe etcd``: an etcd for peers of other machines, where there is none, and the users of an etcd."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from gossip_caffe.cli.options.etcd import EtcdPlace, endpoints, etcd_options
from gossip_caffe.cli.options.security import security_options
from gossip_caffe.cli.terminal.output import print_json, print_table
from gossip_caffe.cli.terminal.streams import say
from gossip_caffe.errors import UsageError

if TYPE_CHECKING:
    from gossip_caffe.cluster.etcd.server import EtcdServer
    from gossip_caffe.membership.etcd.access.roles import Scope
    from gossip_caffe.membership.etcd.etcd_roles import EtcdRoles
    from gossip_caffe.security.identity import Role
    from gossip_caffe.security.security import Security

T = TypeVar("T")
PORT = 2379
HEADINGS = ("ROLE", "MAY", "KEYS FROM", "TO (NOT INCLUDED)", "USERS")


@click.group()
def etcd() -> None:
    """Run an etcd of one member, for machines that have none, and say who may do what in an etcd.

    \b
    gossip-caffe etcd start --listen 10.0.0.5:2379 --tls-dir etcd
    gossip-caffe etcd authenticate --etcd https://10.0.0.5:2379 --tls-dir root
    gossip-caffe etcd roles mnist --peer gpu1 --peer gpu2 --apply --etcd https://10.0.0.5:2379 --tls-dir root
    """


@etcd.command()
@click.option(
    "--listen",
    default=f"127.0.0.1:{PORT}",
    show_default=True,
    metavar="HOST:PORT",
    help="The address of this machine at which peers reach the etcd; port 0: any free port.",
)
@click.option(
    "--data-dir",
    default="gossip-caffe-etcd",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder of its data. The same folder again: the jobs in it go on.",
)
@click.option(
    "--address-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write HOST:PORT into this file as soon as the etcd answers, and remove the file at the end.",
)
@security_options
def start(listen: str, data_dir: Path, address_file: Path | None, security: Security) -> None:
    """Run an etcd until Ctrl-C or SIGTERM, and start it again when it dies.

    It is one member, made to stay small (docs/etcd.md). Peers train on while it is away, for as long as they have
    data of their own. Where jobs must survive the loss of its disk, run three members instead.

    With --tls-dir, or --cacert, --cert and --key, it has TLS, and asks each client for a certificate of the same CA.
    The certificate must be for the address at --listen: 'gossip-caffe tls issue etcd --role viewer --host 10.0.0.5'.

    \b
    gossip-caffe etcd start --listen 10.0.0.5:2379 --tls-dir etcd
    gossip-caffe etcd start --listen 10.0.0.5:2379 --insecure
    gossip-caffe etcd start --listen gpu1.example:0 --data-dir /shared/etcd --address-file /shared/etcd.address
    """
    from gossip_caffe.cluster.etcd.server import EtcdServer
    from gossip_caffe.cluster.serving import own_address
    from gossip_caffe.peer.core.address import listening

    host, port = listening(listen, security, "--listen")
    server = EtcdServer(data_dir, port, own_address(host), tls=security.tls)
    asyncio.run(_serve(server, address_file, security))


@etcd.command()
@click.argument("name")
@click.option(
    "--study", "of_study", is_flag=True, help="NAME is a study: its keys, and the jobs of its trials."
)
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="USER",
    help="A user that trains: it writes all keys but those of the owner. May be repeated.",
)
@click.option(
    "--owner", "owners", multiple=True, metavar="USER", help="A user that also creates and stops the job."
)
@click.option("--viewer", "viewers", multiple=True, metavar="USER", help="A user that only reads.")
@click.option(
    "--apply",
    "applies",
    is_flag=True,
    help="Make the roles and users in etcd, as a user with etcd's role root.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@etcd_options
def roles(
    name: str,
    of_study: bool,
    peers: tuple[str, ...],
    owners: tuple[str, ...],
    viewers: tuple[str, ...],
    applies: bool,
    as_json: bool,
    place: EtcdPlace,
) -> None:
    """Show the roles that a job needs in etcd, and the commands of etcdctl that make them; or make them.

    A peer may not write the job's record, which names code and data: only the owner may. No role reaches another job.
    A user is the CN of a certificate, or one with a password that etcdctl has made. Without --apply etcd is not asked.

    \b
    gossip-caffe etcd roles mnist --peer gpu1 --peer gpu2 --viewer vera
    gossip-caffe etcd roles mnist --peer gpu1 --apply --etcd https://10.0.0.5:2379 --tls-dir root
    gossip-caffe etcd roles lr --study --peer gpu1 --apply --etcd https://10.0.0.5:2379 --tls-dir root
    """
    from gossip_caffe.membership.etcd.access.etcdctl import commands
    from gossip_caffe.membership.etcd.access.roles import Kind, Scope
    from gossip_caffe.membership.keys import checked_name
    from gossip_caffe.security.identity import Role

    scope = Scope(Kind.STUDY if of_study else Kind.JOB, checked_name(name, "study" if of_study else "job"))
    users = {Role.PEER: peers, Role.OWNER: owners, Role.VIEWER: viewers}
    for user in (*peers, *owners, *viewers):
        _check_user(user)
    changes: tuple[str, ...] = ()
    enabled = None
    if applies:
        changes, enabled = _with_roles(place, lambda etcd: _applied(etcd, scope, users))
    if as_json:
        print_json(_record(scope, users, commands(scope, users), changes if applies else None, enabled))
        return
    print_table(HEADINGS, [row for role in Role for row in _rows(scope, role, users[role])])
    if not applies:
        say("\nthe same by etcdctl, as a user with etcd's role root:")
        for line in commands(scope, users):
            say(line)
        return
    for line in changes or ("all roles and users are as they should be",):
        say(line)
    if not enabled:
        say("note: this etcd authenticates nobody yet: gossip-caffe etcd authenticate", err=True)


@etcd.command()
@click.option(
    "--root",
    "roots",
    multiple=True,
    metavar="USER",
    help="Another user that may do everything, beside root. May be repeated.",
)
@etcd_options
def authenticate(roots: tuple[str, ...], place: EtcdPlace) -> None:
    """Let an etcd authenticate its clients: from then on each may do what its roles allow.

    The certificate of this command needs the CN root, or that of a --root: other ones could not undo it.

    \b
    gossip-caffe tls issue root --role owner
    gossip-caffe etcd authenticate --etcd https://10.0.0.5:2379 --tls-dir root
    """
    from gossip_caffe.security.certificate import own_certificate

    tls = place.security.tls
    own = own_certificate(tls).identity.common_name if tls is not None else place.security.user
    users = dict.fromkeys(("root", *roots))
    for user in users:
        _check_user(user)
    if own not in users:
        raise UsageError(
            f"this command is user {own!r:.80} for etcd, which could do nothing more afterwards",
            remedy="use a certificate with the CN root ('gossip-caffe tls issue root --role owner'), or add "
            f"--root {own or 'USER'}",
        )
    changes = _with_roles(place, lambda etcd: etcd.enable(tuple(users)))
    for line in changes or ("etcd authenticates its clients already, and these users may do everything",):
        say(line)


def _check_user(user: str) -> None:
    """Raise UsageError for a text that can be no user of etcd, or no CN."""
    from gossip_caffe.plain import is_text, shown

    if not user or not is_text(user, 64) or ":" in user:
        raise UsageError(f"{shown(user)} cannot be a user of etcd", remedy="give the CN of a certificate")


async def _applied(
    etcd: EtcdRoles, scope: Scope, users: dict[Role, tuple[str, ...]]
) -> tuple[tuple[str, ...], bool]:
    changes = [line for role in users for line in await etcd.apply(scope, role, users[role])]
    return tuple(changes), await etcd.is_enabled()


def _with_roles(place: EtcdPlace, work: Callable[[EtcdRoles], Awaitable[T]]) -> T:
    import random

    from gossip_caffe.clock import SystemClock
    from gossip_caffe.membership.etcd.etcd_roles import EtcdRoles

    where = endpoints(place)

    async def run() -> T:
        etcd = EtcdRoles(where, SystemClock(), random.Random(), place.security)
        try:
            return await work(etcd)
        finally:
            await etcd.close()

    return asyncio.run(run())


def _rows(scope: Scope, role: Role, users: tuple[str, ...]) -> list[tuple[str, ...]]:
    rows = [(keys.kind, keys.start, keys.end) for keys in scope.ranges(role)]
    first = (scope.role(role), *rows[0], ", ".join(users) or "-")
    return [first, *(("", *row, "") for row in rows[1:])]


def _record(
    scope: Scope,
    users: dict[Role, tuple[str, ...]],
    commands: tuple[str, ...],
    changes: tuple[str, ...] | None,
    enabled: bool | None,
) -> dict[str, object]:
    roles = [
        {
            "role": scope.role(role),
            "users": list(names),
            "permissions": [
                {"may": keys.kind, "from": keys.start, "to": keys.end} for keys in scope.ranges(role)
            ],
        }
        for role, names in users.items()
    ]
    applied = None if changes is None else list(changes)
    return {
        scope.kind.name.lower(): scope.name,
        "roles": roles,
        "commands": list(commands),
        "applied": applied,
        "authenticates": enabled,
    }


async def _serve(server: EtcdServer, address_file: Path | None, security: Security) -> None:
    from gossip_caffe.cli.terminal.streams import never_wait_for_readers
    from gossip_caffe.cluster.serving import serve
    from gossip_caffe.system.signals import ending_signals

    asked = asyncio.Event()
    never_wait_for_readers()
    for number in ending_signals():
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    await serve(server, asked, say, address_file, security)
