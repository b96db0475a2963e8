"""The checks of this machine's certificate: its authority, its dates, its names, its role and its use."""

from __future__ import annotations

from gossip_caffe.doctor.check_result import CheckResult
from gossip_caffe.errors import UsageError
from gossip_caffe.security.certificate import OwnCertificate, date, own_certificate
from gossip_caffe.security.identity import Role
from gossip_caffe.security.security import Security

WHAT = "certificate"


def certificate_checks(security: Security, job: str, now_s: float) -> list[CheckResult]:
    """Check the certificate of an identity; nothing for one without. ``job``: the job that is checked, too; "": none.

    ``now_s``: seconds since 1970.
    """
    if security.insecure:
        found = "--insecure: connections to other machines are plain"
        return [CheckResult(WHAT, False, False, found, "give --tls-dir DIR (docs/security.md)")]
    if security.tls is None:
        return []
    try:
        certificate = own_certificate(security.tls, serves=True)
    except UsageError as error:
        return [CheckResult.of_error(WHAT, error)]
    holder = certificate.identity
    found = (
        f"{holder.words}, {holder.role.value} of {holder.job or 'any job'}, by {certificate.issuer}, "
        f"until {date(certificate.ends_s)}"
    )
    why, remedy = _fault(certificate, job, now_s)
    return [CheckResult(WHAT, not why, False, f"{found}: {why}" if why else found, remedy)]


def _fault(certificate: OwnCertificate, job: str, now_s: float) -> tuple[str, str]:
    holder = certificate.identity
    if job and holder.job and holder.job != job:
        return f"it is not for job {job}", "give a certificate for this job, or for any"
    if holder.role is not Role.PEER:
        return (
            "it may look, and no peer can be started with it",
            "start peers with a certificate of the role peer",
        )
    if not holder.names:
        return "it has no DNS name, so no peer can use it", "make it with the peer's name (subjectAltName)"
    if now_s >= certificate.warns_at_s:
        return (
            "less than a third of its life is left",
            "put a new one in its place; peers read it while they train",
        )
    return "", ""
