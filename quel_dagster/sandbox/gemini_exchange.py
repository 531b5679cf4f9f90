"""The connection of one request to the stand-in Gemini: answer on it, or break it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Self

from starlette.responses import Response
from starlette.types import Receive, Scope, Send


@dataclass(frozen=True, slots=True)
class Exchange:
    """The methods return whether the client is still connected."""

    scope: Scope
    receive: Receive
    send: Send
    #: done when the client has disconnected
    gone: asyncio.Task[None]

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, scope: Scope, receive: Receive, send: Send) -> AsyncIterator[Self]:
        async def disconnected() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        gone = asyncio.create_task(disconnected())
        try:
            yield cls(scope, receive, send, gone)
        finally:
            gone.cancel()

    async def stays(self, seconds: float) -> bool:
        """Wait; return False at once when the client disconnects."""
        if seconds > 0:
            await asyncio.wait({self.gone}, timeout=seconds)
        return not self.gone.done()

    async def respond(self, response: Response) -> bool:
        stayed = not self.gone.done()
        await response(self.scope, self.receive, self.send)
        return stayed

    async def drip(self, answer: bytes, pause: float) -> bool:
        """Send the answer 16 bytes at a time."""
        await self._start(len(answer))
        for at in range(0, len(answer), 16):
            await self._body(answer[at : at + 16], more=True)
            if not await self.stays(pause):
                return False
        await self._body(b"", more=False)
        return True

    async def cut(self, answer: bytes) -> bool:
        """Close the connection halfway through the answer."""
        await self._start(len(answer))
        await self._body(answer[: len(answer) // 2], more=True)
        self._transport.close()
        await self.gone
        return True

    async def reset(self) -> bool:
        """Answer with RST."""
        connection = self._transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()
        await self.gone
        return True

    async def _start(self, length: int) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", str(length).encode())]
        await self.send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _body(self, chunk: bytes, *, more: bool) -> None:
        await self.send({"type": "http.response.body", "body": chunk, "more_body": more})

    @property
    def _transport(self) -> asyncio.Transport:
        """Return the connection; uvicorn's `receive` is a method of the object that holds it."""
        transport: asyncio.Transport = self.receive.__self__.transport  # type: ignore[attr-defined]
        return transport
