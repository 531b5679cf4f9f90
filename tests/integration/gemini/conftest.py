"""The client of adapters/gemini.py against the stand-in server, over real HTTP."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

import pytest
import pytest_asyncio
from PIL import Image, UnidentifiedImageError

from quel_dagster.adapters.gemini import GeminiClient, Generation
from quel_dagster.errors import PictureError
from quel_dagster.jobs.model import ImagePart
from quel_dagster.sandbox.gemini_server import GeminiStandIn

API_KEY = "canary-key-5f0b2c"


async def size_of(picture: bytes) -> tuple[int, int]:
    """Decode as the studio does: the size, or a PictureError."""
    try:
        with Image.open(io.BytesIO(picture)) as image:
            image.load()
            return image.size
    except UnidentifiedImageError:
        raise PictureError("These bytes do not decode.") from None


def reference(colour: str = "red") -> ImagePart:
    out = io.BytesIO()
    Image.new("RGB", (120, 160), colour).save(out, "PNG")
    return ImagePart(data=out.getvalue(), mime_type="image/png")


class Ask(Protocol):
    async def __call__(self, client: GeminiClient | None = None, **changes: Any) -> Generation[tuple[int, int]]: ...


@pytest.fixture(scope="module")
def running_server() -> Iterator[GeminiStandIn]:
    with GeminiStandIn(api_key=API_KEY) as server:
        yield server


@pytest.fixture
def server(running_server: GeminiStandIn) -> GeminiStandIn:
    running_server.state.reset()
    return running_server


def client_for(server_url: str | None, **changes: Any) -> GeminiClient:
    options: dict[str, Any] = {
        "api_key": API_KEY,
        "base_url": server_url,
        "model": "gemini-2.5-flash-image",
        "timeout_seconds": 10,
        "attempts": 3,
        "backoff_seconds": 0.001,
    }
    return GeminiClient(**{**options, **changes})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(running_server: GeminiStandIn) -> AsyncIterator[GeminiClient]:
    """One client for a whole module, since building one takes longer than most tests."""
    client = client_for(running_server.url)
    yield client
    await client.aclose()


@pytest.fixture
def ask(client: GeminiClient) -> Ask:
    async def ask(other: GeminiClient | None = None, **changes: Any) -> Generation[tuple[int, int]]:
        wanted: dict[str, Any] = {
            "text": "A picture.",
            "parts": [reference()],
            "aspect_ratio": "4:3",
            "accept": size_of,
        }
        return await (other or client).generate(**{**wanted, **changes})

    return ask
