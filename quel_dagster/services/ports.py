"""Free ports of the loopback address."""

from __future__ import annotations

import socket
from typing import Self

LOOPBACK = "127.0.0.1"


class Reservation:
    """A free port of 127.0.0.1, reserved as long as this object exists: bound without listening.

    A server that sets SO_REUSEADDR, as all servers of a stack do, can listen on it meanwhile, while the kernel
    gives the number to no other program, even while that server restarts.

    Raises:
        OSError: `preferred` is in use, and no other port is allowed.
    """

    def __init__(self, preferred: int | None, *, any_other: bool = True) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((LOOPBACK, preferred or 0))
        except OSError:
            if not any_other:
                self._socket.close()
                raise
            self._socket.bind((LOOPBACK, 0))
        self.port: int = self._socket.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
