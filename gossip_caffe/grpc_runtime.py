"""gRPC, set up once: every room that talks to the network imports ``grpc`` from here."""

from __future__ import annotations

import os

# gRPC's fork handlers block a process that holds live channels; our children are spawned, never forked from Python.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc
import grpc.aio

__all__ = ["grpc"]
