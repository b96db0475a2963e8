"""A TCP proxy on loopback that holds, cuts, spoils, repeats and records what goes through it, byte by byte."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

PATIENCE_S = 60.0
CHUNK_BYTES = 1 << 16
Spoil = Callable[[bytes], bytes]


def flipped(data: bytes) -> bytes:
    """One bit in the middle is another."""
    spoilt = bytearray(data)
    spoilt[len(data) // 2] ^= 0x10
    return bytes(spoilt)


def repeated(data: bytes) -> bytes:
    """Everything comes twice."""
    return data + data


class Way:
    """One direction: holds after ``hold_after`` bytes (None: never) until it is let go; then spoils the next bytes."""

    def __init__(self) -> None:
        self.hold_after: int | None = None
        self.held = threading.Event()
        self.spoil: Spoil | None = None
        self.recorded = bytearray()
        self._free = threading.Event()
        self._lost = False

    def let_go(self) -> None:
        """Hold no longer."""
        self._free.set()

    def lose(self) -> None:
        """What is held is lost, and the connection with it."""
        self._lost = True
        self._free.set()

    def carry(self, here: socket.socket, there: socket.socket) -> None:
        """Until either side hangs up."""
        with contextlib.suppress(OSError):
            while data := here.recv(CHUNK_BYTES):
                left = data
                if self.hold_after is not None and not self._free.is_set():
                    now = left[: max(0, self.hold_after - len(self.recorded))]
                    self._pass(now, there)
                    left = left[len(now) :]
                    if left:
                        self.held.set()
                        self._free.wait(PATIENCE_S)
                        if self._lost:
                            break
                self._pass(left, there)
        for end in (here, there):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _pass(self, data: bytes, there: socket.socket) -> None:
        if not data:
            return
        self.recorded += data
        spoil, self.spoil = self.spoil, None
        there.sendall(data if spoil is None else spoil(data))


class Proxy:
    """Leads connections to a port of loopback; ``up`` is what whoever connects sends, ``down`` what comes back."""

    def __init__(self, onward: int) -> None:
        self.up, self.down = Way(), Way()
        self._onward = onward
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Reset all connections, and take no new ones."""
        self._close_listener()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        """Let everything go, and end."""
        self.up.let_go()
        self.down.let_go()
        self.cut()

    def _close_listener(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listening.accept()
                try:
                    there = socket.create_connection(("127.0.0.1", self._onward), PATIENCE_S)
                except OSError:
                    here.close()
                    continue
                there.settimeout(None)
                self._ends += [here, there]
                for way, ends in ((self.up, (here, there)), (self.down, (there, here))):
                    threading.Thread(target=way.carry, args=ends, daemon=True).start()
