"""The commands that a supervisor accepts on its socket."""

from __future__ import annotations

import os
from typing import Any, Protocol

from gossip_caffe.errors import UsageError


class Commanded(Protocol):
    """The parts of a supervisor that commands need."""

    @property
    def leave_s(self) -> float:
        """The seconds after which a peer that was asked to leave is killed."""
        ...

    async def status(self) -> dict[str, Any]:
        """Return the cluster's status as a JSON object."""
        ...

    async def scale(self, wanted: int) -> dict[str, Any]:
        """Start or stop peers until ``wanted`` peers run. Returns the names of both, and the reason."""
        ...

    async def kill(self, name: str, what: str, number: str) -> dict[str, Any]:
        """Send a signal to a peer's agent, solver or loader, or to all three. Returns the process ids."""
        ...

    async def stop(self, name: str) -> dict[str, Any]:
        """Let one peer leave in good order."""
        ...

    def go_down(self, reason: str) -> None:
        """Take the cluster down."""
        ...


async def answer(supervisor: Commanded, request: dict[str, Any]) -> dict[str, Any]:
    """Carry out a request, and return the answer. Raises UsageError for an unknown command, or the command's error."""
    match request.get("do"):
        case "status":
            return await supervisor.status()
        case "scale":
            return await supervisor.scale(int(request["peers"]))
        case "kill":
            return await supervisor.kill(request["peer"], request["what"], request["signal"])
        case "stop":
            return await supervisor.stop(str(request["peer"]))
        case "down":
            supervisor.go_down("asked by 'cluster down'")
            return {"pid": os.getpid(), "leave_s": supervisor.leave_s}
        case other:
            raise UsageError(
                f"the supervisor does not know {other!r}", remedy="use the command of the same version"
            )
