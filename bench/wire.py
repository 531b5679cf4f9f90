"""TCP proxies between a worker and its servers: one adds distance, and counts PostgreSQL's round trips.

A distance of 80 ms means that an answer comes 80 ms later than it would: half of it is spent on the way there. Bytes
keep their order and are not slowed down otherwise, however many are on the way, as on a long line.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

#: Frontend messages after which PostgreSQL answers ReadyForQuery: simple query, sync, function call.
_ASKING = frozenset(b"QSF")


class Line:
    """`with Line(upstream_port) as line: connect to line.port`."""

    def __init__(self, upstream_port: int, *, postgres: bool = False) -> None:
        """`postgres`: follow its protocol, to count."""
        self._upstream_port = upstream_port
        self._postgres = postgres
        self.port = 0
        #: seconds that a round trip takes longer
        self.distance = 0.0
        #: questions that were answered, and connections made, since `forget`
        self.round_trips = 0
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"line to {upstream_port}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._listening.wait(10):
            raise RuntimeError("The proxy did not start.")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def forget(self) -> None:
        self.round_trips = self.connections = 0

    def through(self, url: str) -> str:
        """The URL with this proxy's port."""
        parts = urlsplit(url)
        login, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{login}{at}127.0.0.1:{self.port}").geturl()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._handle, "127.0.0.1", 0, backlog=256))
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        counter = _Questions() if self._postgres else None
        pumps = (self._pump(reader, upstream_writer, counter), self._pump(upstream_reader, writer, None))
        tasks = [asyncio.create_task(pump) for pump in pumps]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for each in (writer, upstream_writer):
            with contextlib.suppress(OSError, RuntimeError):
                each.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counter: _Questions | None
    ) -> None:
        """Carry bytes of one direction, each chunk half the distance after it came."""
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, chunk = await on_the_way.get()
                if (left := due - self._loop.time()) > 0:
                    await asyncio.sleep(left)
                writer.write(chunk)
                on_the_way.task_done()

        delivering = asyncio.create_task(deliver())
        try:
            with contextlib.suppress(OSError):
                while chunk := await reader.read(65_536):
                    if counter is not None:
                        self.round_trips += counter.read(chunk)
                    on_the_way.put_nowait((self._loop.time() + self.distance / 2, chunk))
            await on_the_way.join()
        finally:
            delivering.cancel()


class _Questions:
    """Reads what a client of PostgreSQL sends and counts the messages that wait for an answer."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._started = False

    def read(self, chunk: bytes) -> int:
        """How many questions this chunk completes."""
        self._buffer += chunk
        found = 0
        while len(self._buffer) >= 8 if not self._started else len(self._buffer) >= 5:
            head = 0 if not self._started else 1
            (length,) = struct.unpack_from("!I", self._buffer, head)
            if len(self._buffer) < head + length:
                break
            if self._started:
                found += self._buffer[0] in _ASKING
            elif struct.unpack_from("!I", self._buffer, 4)[0] >> 16 == 3:
                self._started = True  # the startup message; requests for TLS come before it
            del self._buffer[: head + length]
        return found
