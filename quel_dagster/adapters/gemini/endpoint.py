"""Send one request to Gemini and return the body of its answer, or raise the `GeminiError` with the remedy.

Not here: retries (`attempts`), the answer's meaning (`answer`), HTTP errors with a body of Google's (`failures`).
Errors are raised `from None`: the client library's own exceptions print whole bodies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import httpx2
from google import genai
from google.auth import exceptions as auth_errors
from google.genai import errors as genai_errors
from google.genai import types

from quel_dagster.adapters.gemini.access import Access
from quel_dagster.adapters.gemini.excerpts import excerpt
from quel_dagster.adapters.gemini.failures import Asked, failure
from quel_dagster.adapters.gemini.request import Contents, config_of
from quel_dagster.adapters.gemini.transport import Connections, address_and_headers
from quel_dagster.errors import (
    GeminiBadAnswerError,
    GeminiError,
    GeminiModelError,
    GeminiRejectedError,
    GeminiTimeoutError,
    GeminiUnavailableError,
)
from quel_dagster.jobs.models import ImageModel

T = TypeVar("T")

#: seconds for a request that makes no picture
LOOK_UP_SECONDS = 10.0


class Endpoint:
    """The API that is asked, with its connections. Serves many tasks and event loops."""

    def __init__(
        self,
        *,
        access: Access,
        base_url: str | None,
        size: str,
        thinking: str | None,
        timeout_seconds: float | None,
    ) -> None:
        """See `GeminiClient` for the arguments.

        Raises:
            SettingsError: the credentials or the URL cannot be used.
        """
        self._access = access
        self._size = size
        self._thinking = thinking
        self._timeout = timeout_seconds
        address, headers = address_and_headers(base_url)
        self._where = address or "Google"
        self._connections = Connections()
        self._client = genai.Client(
            **access.client_arguments(),
            http_options=types.HttpOptions(
                api_version=access.api_version,
                base_url=address,
                headers=headers,
                httpx_async_client=self._connections,
            ),
        )

    @property
    def secret(self) -> str:
        """Return the key, for the wording of errors without it."""
        return self._access.secret

    async def aclose(self) -> None:
        """Close the connections of the running event loop; a later call, on any loop, opens new ones."""
        await self._connections.aclose()

    async def call(self, model: ImageModel, contents: Contents, *, ratio: str) -> str | bytes | None:
        """Send one request and return the body of its answer, read whole before the deadline.

        Raises:
            GeminiError: there is no complete answer, or it is an error.
        """
        seconds = self._timeout or model.seconds_for(model.size_for(self._size))
        config = config_of(
            model,
            contents=contents,
            ratio=ratio,
            size=self._size,
            thinking=self._thinking,
            seconds=seconds,
            store=self._access.store,
        )
        answer = await self._answered(
            self._client.aio.models.generate_content(model=model.id, contents="", config=config), model, seconds
        )
        return answer.sdk_http_response.body if answer.sdk_http_response else None

    async def look_up(self, model: ImageModel) -> None:
        """Ask for the model's resource and let the model count the tokens of a word; both are free.

        Raises:
            GeminiError: the model does not exist, or may not be used with this access.
        """
        seconds = self._timeout or LOOK_UP_SECONDS
        models = self._client.aio.models
        try:
            await self._answered(models.get(model=model.id), model, seconds)
        except GeminiRejectedError as error:
            if isinstance(error, GeminiModelError):
                raise
            # Otherwise the next request decides: an account that may use a model may lack the right to read it.
        await self._answered(models.count_tokens(model=model.id, contents="x"), model, seconds)

    async def _answered(self, question: Awaitable[T], model: ImageModel, seconds: float) -> T:
        """Return the answer to a request, read whole before the deadline."""
        try:
            async with asyncio.timeout(seconds):
                return await question
        except genai_errors.APIError as error:
            raise failure(error, self._asked(model)) from None
        except (TimeoutError, httpx2.TimeoutException):
            raise GeminiTimeoutError(
                f"Gemini at {self._where} did not finish its answer within {seconds:g} s."
            ) from None
        except (httpx2.HTTPError, auth_errors.GoogleAuthError, OSError) as error:
            raise self._broken_connection(error) from None
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise GeminiBadAnswerError(
                f"Gemini's answer was broken: not the JSON that was expected ({type(error).__name__})."
            ) from None

    def _broken_connection(self, error: Exception) -> GeminiError:
        """Return the error for a request that got no answer of Gemini's."""
        match error:
            case httpx2.ConnectError() | httpx2.ProxyError() | httpx2.UnsupportedProtocol():
                said = excerpt(error, secret=self.secret) or type(error).__name__
                return GeminiUnavailableError(
                    f"Cannot reach Gemini at {self._where} ({said}); check the network and GEMINI_BASE_URL."
                )
            case httpx2.DecodingError():
                return GeminiBadAnswerError("Gemini's answer was broken: its compression does not decode.")
            case auth_errors.TransportError():
                return GeminiUnavailableError(
                    f"Cannot reach Google to have the credentials of {self._access.setting} accepted "
                    f"({type(error).__name__}); check the network."
                )
            case auth_errors.GoogleAuthError():
                return GeminiRejectedError(
                    f"Google refuses the credentials of {self._access.setting} ({excerpt(error)}); "
                    "name the file of a service account that may use Vertex AI."
                )
            case _:
                return GeminiUnavailableError(
                    f"The connection to Gemini at {self._where} broke before its answer was complete "
                    f"({type(error).__name__}).",
                    everybody=False,
                )

    def _asked(self, model: ImageModel) -> Asked:
        return Asked(model=model.id, where=self._where, access=self._access.setting, secret=self.secret)
