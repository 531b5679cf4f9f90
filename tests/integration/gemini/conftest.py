"""The client of adapters/gemini.py against the stand-in server, over real HTTP."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pytest
import pytest_asyncio
from PIL import Image, UnidentifiedImageError

from quel_dagster.adapters.gemini.access import ApiKey
from quel_dagster.adapters.gemini.client import GeminiClient
from quel_dagster.adapters.gemini.generation import Spent
from quel_dagster.adapters.gemini.observer import Observer
from quel_dagster.errors import PictureError
from quel_dagster.jobs.model import ImagePart
from quel_dagster.jobs.models import DEFAULT_MODEL, model_of
from quel_dagster.sandbox.gemini_server import GeminiStandIn

API_KEY = "canary-key-5f0b2c"


async def size_of(picture: bytes) -> tuple[int, int]:
    """Decode as the engine does: the size, or a PictureError."""
    try:
        with Image.open(io.BytesIO(picture)) as image:
            image.load()
            return image.size
    except UnidentifiedImageError:
        raise PictureError("These bytes do not decode.") from None


def reference(colour: str = "red") -> ImagePart:
    out = io.BytesIO()
    Image.new("RGB", (120, 160), colour).save(out, "PNG")
    return ImagePart.of(out.getvalue(), "image/png")


def observing(**events: Callable[..., object]) -> Observer:
    """An observer with these callbacks, by the name of the event."""
    observer = Observer()
    for name, callback in events.items():
        assert hasattr(observer, name)
        setattr(observer, name, callback)
    return observer


@dataclass(frozen=True)
class Answered:
    """The size of a picture, or what another `accept` made of it, and what it took."""

    result: Any
    spent: Spent


class Ask(Protocol):
    async def __call__(self, client: GeminiClient | None = None, **changes: Any) -> Answered: ...


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
        "access": ApiKey(changes.pop("api_key", API_KEY)),
        "base_url": server_url,
        "models": [model_of(DEFAULT_MODEL)],
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
    async def ask(other: GeminiClient | None = None, **changes: Any) -> Answered:
        spent = Spent()
        wanted: dict[str, Any] = {
            "text": "A picture.",
            "parts": [reference()],
            "aspect_ratio": "4:3",
            "accept": size_of,
            "spent": spent,
        }
        return Answered(await (other or client).generate(**{**wanted, **changes}), spent)

    return ask
