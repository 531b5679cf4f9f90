"""A TCP proxy in front of a store that fails on purpose: one planned fault per connection, then it lets through."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

Fault = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class FaultyProxy:
    def __init__(self, upstream_port: int) -> None:
        self.upstream_port = upstream_port
        self.port = 0
        #: one per connection, in order
        self.planned: deque[Fault] = deque()
        #: when nothing is planned; None lets through
        self.always: Fault | None = None
        self.connections = 0
        self.connected = asyncio.Event()
        self._open: set[asyncio.Task[None]] = set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.connected.set()
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        fault = self.planned.popleft() if self.planned else self.always
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await (fault(reader, writer) if fault else self._let_through(reader, writer))
        finally:
            self._open.discard(task)
            writer.close()

    async def _let_through(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        try:
            await asyncio.gather(pump(reader, upstream_writer), pump(upstream_reader, writer))
        finally:
            upstream_writer.close()

    async def stop(self) -> None:
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65_536):
        writer.write(chunk)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


@asynccontextmanager
async def faulty_proxy(upstream_port: int) -> AsyncIterator[FaultyProxy]:
    proxy = FaultyProxy(upstream_port)
    server = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.stop()


# --- faults ------------------------------------------------------------------------------------------


def answers(status: int, *, headers: str = "", body: bytes = b"") -> Fault:
    async def fault(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await whole_request(reader)
        head = f"HTTP/1.1 {status} Fault\r\ncontent-length: {len(body)}\r\nconnection: close\r\n{headers}\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    return fault


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Cut the connection hard after the head of the request."""
    await reader.readuntil(b"\r\n\r\n")
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def cuts_the_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Promise a thousand bytes, send ten, and hang up."""
    await whole_request(reader)
    writer.write(OBJECT_HEAD.format(length=1000).encode() + b"0123456789")
    await writer.drain()


async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read for ever, answer never."""
    while await reader.read(65_536):
        pass


async def drips_the_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One header line after the other, without end."""
    await whole_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x-drop: 1\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)


async def drips(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A byte of the answer now and then, so that no read ever times out."""
    await whole_request(reader)
    writer.write(OBJECT_HEAD.format(length=1_000_000).encode())
    while True:
        writer.write(b".")
        await writer.drain()
        await asyncio.sleep(0.02)


async def pours(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A body that never ends and says no length."""
    await whole_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\nconnection: close\r\n\r\n")
    while True:
        writer.write(bytes(65_536))
        await writer.drain()


OBJECT_HEAD = (
    'HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: {length}\r\netag: "1"\r\n'
    "last-modified: Sun, 22 Nov 2026 10:00:00 GMT\r\nconnection: close\r\n\r\n"
)


async def whole_request(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    for line in head.split("\r\n"):
        name, _, value = line.partition(":")
        if name == "content-length":
            await reader.readexactly(int(value))
