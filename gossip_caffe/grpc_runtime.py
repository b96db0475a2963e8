"""gRPC, configured once: every module that uses the network imports ``grpc`` from here."""

from __future__ import annotations

import os

# gRPC's fork handlers block a process with open channels. They are not needed: Python never forks our children.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc
import grpc.aio

NO_PROXY = (("grpc.enable_http_proxy", 0),)
"""Options of every channel: etcd and peers are reached directly, even if the environment names a web proxy.

Without them gRPC would send even loopback traffic to $http_proxy, $https_proxy or $grpc_proxy.
"""

__all__ = ["NO_PROXY", "grpc"]
