"""The options of an identity: certificate files, a user of etcd, or --insecure. A command gets a ``Security``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import click

from gossip_caffe.security.given import Given, security_of, variable

Command = TypeVar("Command", bound=Callable[..., Any])

_WORDS = (
    ("--cacert", "FILE", "The CA that the certificates of etcd and of peers must come from."),
    (
        "--cert",
        "FILE",
        "This process's certificate, for etcd and for peers. Its DNS name is the peer's name.",
    ),
    ("--key", "FILE", "The private key of --cert. Only its owner may read the file."),
    (
        "--tls-dir",
        "DIR",
        "The folder of ca.crt, tls.crt and tls.key, or of SPIFFE's svid_bundle.pem, svid.pem and svid_key.pem, in "
        "place of the three options.",
    ),
    ("--user", "NAME", "The user of an etcd that knows users by passwords."),
    ("--password-file", "FILE", "The file with that user's password. Only its owner may read it."),
)


def security_options(command: Command) -> Command:
    """Add ``--cacert`` and its like to a command, which gets them as ``security``, a Security."""

    @functools.wraps(command)
    def with_security(
        *arguments: Any,
        cacert: str,
        cert: str,
        key: str,
        tls_dir: str,
        user: str,
        password_file: str,
        insecure: bool,
        **options: Any,
    ) -> Any:
        given = Given(cacert, cert, key, tls_dir, user, password_file, insecure)
        return command(*arguments, security=security_of(given), **options)

    with_words: Any = click.option(
        "--insecure",
        is_flag=True,
        help="Use plain connections to other machines: every program that reaches a port owns the model. Default: "
        f"${variable('insecure')}, else no.",
    )(with_security)
    for option, kind, text in reversed(_WORDS):
        name = option.removeprefix("--").replace("-", "_")
        default = f" Default: ${variable(name)}."
        with_words = click.option(option, name, default="", metavar=kind, help=text + default)(with_words)
    return cast(Command, with_words)
