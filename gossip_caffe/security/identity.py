"""What a certificate says about its holder, and what the holder may ask of a peer. Pure functions, without files."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

_URI = re.compile(
    r"spiffe://(?P<trust>[^/]*)/gossip-caffe(?:/job/(?P<job>[^/]+))?/(?P<role>peer|viewer|owner)(?:/(?P<name>[^/]+))?"
)


class Role(Enum):
    """What the holder of a certificate is to a job."""

    PEER = "peer"
    VIEWER = "viewer"
    OWNER = "owner"


@dataclass(frozen=True, slots=True)
class Identity:
    """The holder of a certificate.

    ``names``: its DNS names, each of which is the name of a peer. ``job``: the only job of the certificate; "": any.
    ``common_name``: its CN, which etcd takes for a user's name.
    """

    names: tuple[str, ...]
    role: Role
    job: str = ""
    common_name: str = ""

    @property
    def words(self) -> str:
        """The holder in words, for a line: its names, or its CN."""
        return ", ".join(self.names) or self.common_name or "nobody"


def uri_of(role: Role, name: str, job: str = "", trust: str = "gossip-caffe") -> str:
    """The SPIFFE URI that says a role, and a job unless it is any."""
    return f"spiffe://{trust}/gossip-caffe/{f'job/{job}/' if job else ''}{role.value}/{name}"


@functools.lru_cache(maxsize=1024)
def identity_of(names: tuple[str, ...], uris: tuple[str, ...], common_name: str) -> Identity:
    """The holder by the DNS names, URIs and CN of a certificate.

    A URI ``spiffe://TRUST/gossip-caffe[/job/JOB]/ROLE[/NAME]`` gives the role and the job. Without one a certificate
    with a DNS name is that of a peer of any job, and one without is a viewer's.
    """
    for uri in uris:
        if (said := _URI.fullmatch(uri)) is not None:
            return Identity(names, Role(said["role"]), said["job"] or "", common_name)
    return Identity(names, Role.PEER if names else Role.VIEWER, "", common_name)


def objection_to_member(caller: Identity, peer: str, job: str) -> str:
    """Why ``caller`` may not exchange as ``peer`` of ``job``; "" if it may."""
    if caller.role is not Role.PEER:
        return f"the certificate of {caller.words} is that of a {caller.role.value}, which may look and never exchange"
    if peer not in caller.names:
        return f"the certificate is that of {caller.words}, and the message says {peer}"
    return objection_to_viewer(caller, job)


def objection_to_viewer(caller: Identity, job: str) -> str:
    """Why ``caller`` may not look at ``job``; "" if it may."""
    if caller.job and caller.job != job:
        return f"the certificate of {caller.words} is for job {caller.job}, and not for {job or 'any other'}"
    return ""


def wrong_names(own: Sequence[str], peer: str) -> str:
    """Why a certificate with these names cannot be that of ``peer``; "" if it can."""
    if peer in own:
        return ""
    return f"the certificate is for {', '.join(own) or 'no name'}, and this peer is called {peer}"
