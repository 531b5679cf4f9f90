"""Vertex AI in place of a key: the request and its errors, against the stand-in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from quel_dagster.adapters.gemini.client import GeminiClient
from quel_dagster.errors import (
    GeminiModelError,
    GeminiRejectedError,
    GeminiUnavailableError,
    SettingsError,
)
from quel_dagster.sandbox.gemini_server import GeminiStandIn
from quel_dagster.sandbox.gemini_state import Behaviour, Rule
from quel_dagster.settings import Settings
from tests.integration.gemini.conftest import Ask, size_of
from tests.service_account import service_account

pytestmark = pytest.mark.asyncio(loop_scope="module")


def settings(server: GeminiStandIn, credentials: Path, **more: object) -> Settings:
    return Settings.read(
        _env_file=None,
        use_vertex_ai=True,
        vertex_project="pictures",
        vertex_location="europe-west4",
        vertex_credentials=credentials,
        gemini_base_url=server.url,
        gemini_attempts=1,
        gemini_backoff_seconds=0.001,
        **more,
    )


@pytest_asyncio.fixture(loop_scope="module")
async def vertex(server: GeminiStandIn, tmp_path: Path) -> AsyncIterator[GeminiClient]:
    client = GeminiClient.from_settings(settings(server, service_account(tmp_path / "sa.json", f"{server.url}/token")))
    yield client
    await client.aclose()


async def test_credentials_of_a_service_account_make_pictures(
    server: GeminiStandIn, ask: Ask, vertex: GeminiClient
) -> None:
    made = await ask(vertex)
    assert made.result == (1152, 896)
    (request,) = server.state.requests
    assert (request.version, request.outcome) == ("v1beta1", "ok")
    assert request.config["imageConfig"] == {"aspectRatio": "4:3", "imageSize": "1K"}
    assert request.more == {}, "Vertex AI knows no field `store`"


async def test_model_that_is_not_there_is_named(server: GeminiStandIn, ask: Ask, vertex: GeminiClient) -> None:
    body = {
        "error": {
            "code": 404,
            "message": "Publisher Model was not found or your project does not have access to it.",
            "status": "NOT_FOUND",
        }
    }
    server.state.add_rules(Rule(behaviour=Behaviour.RAW, status=404, body=body))
    with pytest.raises(GeminiModelError, match="GEMINI_MODEL"):
        await ask(vertex)


async def test_account_without_permission_names_the_credentials(
    server: GeminiStandIn, ask: Ask, vertex: GeminiClient
) -> None:
    server.state.add_rules(Rule(behaviour=Behaviour.FORBIDDEN))
    with pytest.raises(GeminiRejectedError, match="check GOOGLE_APPLICATION_CREDENTIALS"):
        await ask(vertex)


async def test_token_that_is_refused_names_the_credentials(server: GeminiStandIn, ask: Ask, tmp_path: Path) -> None:
    """The token server knows no such account: the stand-in has no `/nowhere`."""
    client = GeminiClient.from_settings(settings(server, service_account(tmp_path / "sa", f"{server.url}/nowhere")))
    with pytest.raises(GeminiRejectedError, match="GOOGLE_APPLICATION_CREDENTIALS"):
        await ask(client)
    await client.aclose()
    assert server.state.requests == []


async def test_unreachable_token_server_is_retried(server: GeminiStandIn, ask: Ask, tmp_path: Path) -> None:
    client = GeminiClient.from_settings(settings(server, service_account(tmp_path / "sa", "http://127.0.0.1:1/token")))
    with pytest.raises(GeminiUnavailableError, match="credentials"):
        await ask(client)
    await client.aclose()


@pytest.mark.parametrize("content", ["", "{}", '{"type": "service_account"}'])
async def test_file_that_is_no_account_is_named(content: str, server: GeminiStandIn, tmp_path: Path) -> None:
    path = tmp_path / "sa.json"
    path.write_text(content)
    with pytest.raises(SettingsError, match=r"^GOOGLE_APPLICATION_CREDENTIALS: "):
        GeminiClient.from_settings(settings(server, path))


async def test_project_that_is_missing_is_named(server: GeminiStandIn, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^GOOGLE_CLOUD_PROJECT: "):
        GeminiClient.from_settings(settings(server, tmp_path).model_copy(update={"vertex_project": None}))


async def test_settings_without_vertex_ai_need_a_key() -> None:
    with pytest.raises(SettingsError, match=r"^GEMINI_API_KEY: "):
        GeminiClient.from_settings(Settings.read(_env_file=None))


async def test_picture_decodes(server: GeminiStandIn, vertex: GeminiClient) -> None:
    made = await vertex.generate(text="x", parts=[], aspect_ratio="8:1", accept=size_of)
    assert made == (2944, 368)
