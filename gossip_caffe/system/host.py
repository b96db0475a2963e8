"""The name of this machine, as it can be written down."""

from __future__ import annotations

import socket

from gossip_caffe.printable import printable_line


def host_name() -> str:
    """The host's name, cut to 64 characters. What is no text of it is escaped: the kernel takes any bytes."""
    return printable_line(socket.gethostname())[:64]
