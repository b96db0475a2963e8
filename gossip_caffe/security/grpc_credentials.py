"""gRPC's credentials of an identity: a server follows its files by itself, a channel keeps those of its beginning."""

from __future__ import annotations

from typing import Any

from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.security.live import LiveTls, Loaded


def server_credentials(live: LiveTls) -> Any:
    """Credentials of a server that asks every caller for a certificate, and takes new files at the next handshake."""
    served = live.now()

    def newest() -> Any:
        """The files after a change, None without one. gRPC calls it in a thread of its own, at each handshake."""
        nonlocal served
        if (loaded := live.now()) is served:
            return None
        served = loaded
        return _configuration(loaded)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(served), newest, require_client_authentication=True
    )


def channel_credentials(loaded: Loaded) -> Any:
    """Credentials of a channel."""
    material = loaded.material
    return grpc.ssl_channel_credentials(material.cacert, material.key, material.cert)


def named(name: str) -> tuple[tuple[str, str], ...]:
    """Options of a channel: the certificate at its other end must be for ``name``, whatever the address is."""
    return (("grpc.ssl_target_name_override", name),)


def _configuration(loaded: Loaded) -> Any:
    material = loaded.material
    return grpc.ssl_server_certificate_configuration([(material.key, material.cert)], material.cacert)
