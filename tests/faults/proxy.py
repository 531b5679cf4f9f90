"""A TCP proxy that holds, delays, drips, cuts and refuses connections on demand.

It runs in its own thread; every method may be called from any other thread, and holds for open and for new connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self


@dataclass
class Conditions:
    """How the bytes of one direction are forwarded."""

    #: nothing passes while this is clear
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    #: seconds before every chunk
    delay: float = 0.0
    #: bytes at a time; 0: as they come
    chunk: int = 0


class TcpProxy:
    """`with TcpProxy(upstream_port) as proxy: connect to proxy.address and proxy.port`."""

    def __init__(self, upstream_port: int, address: str = "127.0.0.1") -> None:
        self.upstream_port = upstream_port
        self.address = address
        self.port = 0
        #: connections made through it so far
        self.connections = 0
        #: connections cut by it so far
        self.cuts = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"proxy of {upstream_port}", daemon=True)
        self._listening = threading.Event()
        self._open: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._up, self._down = Conditions(), Conditions()
        self._refusing = False
        #: connections that were refused
        self.refused = 0

    # --- control -------------------------------------------------------------------------------------

    def hold(self, *, up: bool = True, down: bool = True) -> None:
        """Let nothing pass; connections stay open. What a client sent before it disconnected never arrives.

        Args:
            up: requests, from client to server. down: answers.
        """

        def act() -> None:
            for wanted, weather in ((up, self._up), (down, self._down)):
                if wanted:
                    weather.gate.clear()

        self._do(act)

    def slow(self, *, delay: float = 0.0, chunk: int = 0) -> None:
        """Delay every chunk of both directions, in small chunks if asked."""

        def act() -> None:
            for weather in (self._up, self._down):
                weather.delay, weather.chunk = delay, chunk

        self._do(act)

    def cut(self) -> int:
        """Reset every open connection; returns how many."""

        def act() -> None:
            for pair in list(self._open):
                for writer in pair:
                    _reset(writer)
                self.cuts += 1

        before = self.cuts
        self._do(act)
        return self.cuts - before

    def refuse(self) -> None:
        """Reset every connection, open or to come."""
        self._refusing = True
        self.cut()

    def heal(self) -> None:
        """Let everything pass again."""

        def act() -> None:
            self._refusing = False
            for weather in (self._up, self._down):
                weather.gate.set()
                weather.delay, weather.chunk = 0.0, 0

        self._do(act)

    # --- running -------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._listening.wait(10):
            raise RuntimeError("The proxy did not start.")
        self.heal()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _do(self, act: Callable[[], None]) -> None:
        done = threading.Event()

        def do() -> None:
            act()
            done.set()

        self._loop.call_soon_threadsafe(do)
        if not done.wait(10):
            raise RuntimeError("The proxy does not answer.")

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._handle, self.address, 0, backlog=512))
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        self._loop.run_forever()
        server.close()
        for pair in list(self._open):
            for writer in pair:
                writer.transport.abort()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._refusing:
            self.refused += 1
            _reset(writer)
            return
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        except OSError:
            _reset(writer)  # as if the server itself had refused
            return
        pair = (writer, upstream_writer)
        self._open.add(pair)
        pumps = [
            asyncio.create_task(_pump(reader, upstream_writer, self._up)),
            asyncio.create_task(_pump(upstream_reader, writer, self._down)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._open.discard(pair)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for each in pair:
                with contextlib.suppress(OSError, RuntimeError):
                    each.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, weather: Conditions) -> None:
    """Forward bytes until the sender disconnects; drop delayed bytes then."""
    chunks: asyncio.Queue[bytes] = asyncio.Queue(maxsize=64)
    gone = asyncio.Event()

    async def read() -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65_536):
                await chunks.put(chunk)
        gone.set()
        await chunks.put(b"")

    reading = asyncio.create_task(read())
    try:
        while chunk := await chunks.get():
            if not weather.gate.is_set() and not await _passes(weather.gate, gone):
                return
            step = weather.chunk or len(chunk)
            for at in range(0, len(chunk), step):
                if weather.delay:
                    await asyncio.sleep(weather.delay)
                writer.write(chunk[at : at + step])
                await writer.drain()
    except OSError:
        return
    finally:
        reading.cancel()


async def _passes(gate: asyncio.Event, gone: asyncio.Event) -> bool:
    """Wait at the gate; False when the sender leaves first."""
    waiters = [asyncio.create_task(gate.wait()), asyncio.create_task(gone.wait())]
    try:
        await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()
    return gate.is_set()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
