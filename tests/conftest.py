"""What every test may rely on: nothing of this shell's own installation reaches it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from quel_dagster.settings import Settings

_MORE_VARIABLES = (
    "DAGSTER_HOME",
    "DAGSTER_POSTGRES_URL",
    "CELERY_BROKER_URL",
    "CELERY_RESULT_BACKEND",
    "QUEL_WEBSERVER_URL",
    "QUEL_CODE_SERVER_PORT",
)


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_this_shell() -> Iterator[None]:
    """A developer who has run `eval "$(quel env)"` must not have tests write to that database."""
    aliases = [str(field.alias) for field in Settings.model_fields.values()]
    with pytest.MonkeyPatch.context() as patch:
        for name in [*aliases, *_MORE_VARIABLES]:
            patch.delenv(name, raising=False)
        for name in [name for name in os.environ if name.startswith(("QUEL_", "DAGSTER_"))]:
            patch.delenv(name)
        yield
