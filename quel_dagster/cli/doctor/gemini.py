"""Check Gemini: a valid key, and models that exist and support what the settings request.

Responsibilities: what the model table says; `try_a_picture`, which costs what it prints.
Not here: what the server says (`gemini_models`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime

from quel_dagster.adapters.gemini.client import GeminiClient
from quel_dagster.adapters.gemini.generation import Spent
from quel_dagster.cli.doctor.finding import Finding, Part
from quel_dagster.cli.doctor.gemini_models import ask_gemini_api, ask_vertex_ai
from quel_dagster.errors import GeminiError, SettingsError
from quel_dagster.jobs.model_choice import ModelChoice
from quel_dagster.jobs.models import CHECKED, NEAR_SHUTDOWN, ImageModel, State
from quel_dagster.jobs.pictures import StoredPicture, to_webp
from quel_dagster.settings import Settings

PICTURE_TEXT = "A photograph of one ripe banana on a plain white table, seen from the front."

_part = Part("Gemini")


def check_gemini(settings: Settings) -> Iterator[Finding]:
    """Yield every finding about Gemini: first from the model table, then from the server."""
    if settings.gemini_api_key is None and not settings.use_vertex_ai:
        yield _part.failed("GEMINI_API_KEY is not set", "set the key, or start `quel up`, which brings a stand-in")
        return
    choice = ModelChoice.of(settings)
    for model in choice.all_models():
        yield from _of_table(model, choice, datetime.now(UTC).date())
    ask = ask_vertex_ai if settings.use_vertex_ai else ask_gemini_api
    yield from ask(settings, choice.all_models())


def try_a_picture(settings: Settings) -> Finding:
    """Make one real picture; report its duration and cost."""

    async def make() -> Finding:
        client = GeminiClient.from_settings(settings)
        spent, began = Spent(), time.monotonic()
        try:
            picture = await client.generate(
                text=PICTURE_TEXT,
                parts=[],
                aspect_ratio="1:1",
                accept=_decoded,
                models=ModelChoice.of(settings).chain(None, "1:1"),
                spent=spent,
            )
        finally:
            await client.aclose()
        cost = "at an unknown price" if spent.cost is None else f"for {spent.cost:.4f} USD"
        return _part.ok(
            f"{spent.model} made a picture of {picture.width}×{picture.height} pixels in "
            f"{time.monotonic() - began:.1f} s {cost} ({spent.usage.input} tokens in, {spent.usage.image} of the "
            f"picture, {spent.usage.text} of text and thoughts)"
        )

    try:
        return asyncio.run(make())
    except (GeminiError, SettingsError) as error:
        return _part.failed(f"no picture: {error}", "do what the message says, and try again")


async def _decoded(data: bytes) -> StoredPicture:
    return await asyncio.to_thread(to_webp, data)


# --- from the model table ----------------------------------------------------------------------------


def _of_table(model: ImageModel, choice: ModelChoice, today: date) -> Iterator[Finding]:
    state = model.state(today)
    instead = f"set GEMINI_MODEL to {model.replacement or 'a current one'} (docs/models.md)"
    if state is State.UNKNOWN:
        yield _part.warning(
            f"{model.id} is not in the model table of {CHECKED:%Y-%m-%d}: requests use only what all models support, "
            "and its cost is unknown",
            "check its name, or update this program",
        )
    elif state is State.RETIRED:
        yield _part.failed(f"{model.id} is past its shutdown date, {model.shutdown:%Y-%m-%d}", instead)
    elif model.shutdown is not None and model.shutdown - today <= NEAR_SHUTDOWN:
        yield _part.warning(f"{model.id} will be shut down on {model.shutdown:%Y-%m-%d}", instead)
    elif state is State.DEPRECATED:
        yield _part.warning(f"{model.id} is deprecated", instead)
    if model.size_for(choice.size) != choice.size:
        yield _part.warning(
            f"{model.id} cannot make {choice.size} pictures: {model.size_for(choice.size)} is made",
            f"set GEMINI_IMAGE_SIZE to one of {', '.join(model.sizes)}",
        )
    if choice.thinking is not None and model.thinking_for(choice.thinking) is None:
        levels = f"one of {', '.join(model.thinking)}" if model.thinking else "nothing"
        yield _part.warning(
            f"{model.id} does not support the thinking level {choice.thinking}: its default is used",
            f"set GEMINI_THINKING to {levels}",
        )
