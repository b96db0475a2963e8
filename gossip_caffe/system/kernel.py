"""What the kernel, and the container around a process, must allow a peer to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from gossip_caffe.errors import EnvironmentProblem

_OF_LIMITS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors of a machine that has what is asked for, and too little of it: others say so where it is needed."""
_PROC = Path("/proc/self/fd")


def missing() -> tuple[str, str]:
    """The first need that is not met, and the remedy; "" each where all are."""
    needs: dict[str, Callable[[], int]] = {
        "memfd_create": lambda: os.memfd_create("gossip-caffe-probe", os.MFD_CLOEXEC),
        "pidfd_open": lambda: os.pidfd_open(os.getpid()),
        "eventfd": lambda: os.eventfd(0),
    }
    for name, call in needs.items():
        try:
            os.close(call())
        except AttributeError:
            return f"this Python knows no {name}", "use Linux, and a Python that was built on 5.4 or newer"
        except OSError as error:
            if error.errno not in _OF_LIMITS:
                why = f"the kernel refuses {name} ({error.strerror})"
                return why, "use Linux 5.4 or newer; in a container, let its seccomp profile allow the call"
    if not _PROC.is_dir():
        return "there is no /proc", "mount it: 'mount -t proc proc /proc'"
    return "", ""


def refuse_without_kernel() -> None:
    """Raise EnvironmentProblem on a machine where no peer can work."""
    what, remedy = missing()
    if what:
        raise EnvironmentProblem(f"this machine cannot train: {what}", remedy=remedy)
