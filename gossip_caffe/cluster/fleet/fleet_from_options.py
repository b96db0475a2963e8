"""The fleet of a cluster from its options: the names of its peers, and the arguments of their commands."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from gossip_caffe.cluster.fleet.fleet import Fleet
from gossip_caffe.cluster.state.folder import DEFAULT_NAME
from gossip_caffe.cluster.state.options import ClusterOptions
from gossip_caffe.job.code import ENVIRONMENT, OPTION
from gossip_caffe.peer.core.lifecycle import GRACE_S
from gossip_caffe.security.certificate import own_certificate
from gossip_caffe.system.host import host_name


def fleet_of(
    options: ClusterOptions, endpoint: str, hear: Callable[[str], None], *, listens_for_others: bool
) -> Fleet:
    """Make a fleet, without peers yet. ``endpoint``: its etcd; ``hear`` is called with each trouble of a peer.

    ``listens_for_others``: True if other users can write to that etcd.
    """
    return Fleet(
        options.state,
        endpoint,
        options.job,
        options.engine,
        _prefix(options),
        (
            *_code_words(listens_for_others=listens_for_others),
            *(("--metrics-listen", options.metrics_listen) if options.metrics_listen else ()),
            *(("--grace", str(options.grace_s)) if options.grace_s != GRACE_S else ()),
            *options.security.arguments,
            *options.of_peers,
        ),
        lambda name: options.arguments_of(name, endpoint),
        options.gpus,
        options.before,
        hear,
        _names(options),
        first_is_rank=options.started is not None,
    )


def _names(options: ClusterOptions) -> tuple[str, ...]:
    """Return the names of the certificate, where peers have to bear them; else none.

    The peers of a cluster with an etcd of its own on a Unix socket show no certificate.
    """
    tls = options.security.tls
    if tls is None or not (options.etcd or options.etcd_host):
        return ()
    return own_certificate(tls, serves=True).identity.names


def _prefix(options: ClusterOptions) -> str:
    """Return the prefix of the peers' names: "p"; in a shared etcd with the host name, so that names differ.

    Containers may have the same host name. Then the cluster's --name makes the difference.
    """
    if not options.etcd:
        return "p"
    cluster = "" if options.state.name == DEFAULT_NAME else f"-{_as_name(options.state.name)}"
    return f"{_as_name(host_name())}{cluster}-p"


def _code_words(*, listens_for_others: bool) -> tuple[str, ...]:
    """Return the option that allows a job's code, if only this user can write to etcd: it has no port then.

    The user's own option or environment variable has priority.
    """
    return () if listens_for_others or os.environ.get(ENVIRONMENT) else (OPTION,)


def _as_name(text: str) -> str:
    """Return ``text`` without the characters that a peer's name cannot contain."""
    return re.sub(r"[^a-z0-9-]+", "-", text.lower()).strip("-")[:40] or "host"
