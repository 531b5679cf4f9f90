"""The one door to Gemini: a picture, or a `GeminiError` whose class says what to do about it.

Belongs here: the request of domain.md §6, reading the answer, deadlines, retries. Does not belong here: what
the text says (`jobs`), what is done with the picture (`studio`), limits over all runs (`gemini_quota`, as a `gate`).

Tried again, with growing pauses:
    GeminiRateLimitedError  429; not before Retry-After or RetryInfo say so
    GeminiUnavailableError  5xx, 409; connection refused, reset or cut
    GeminiTimeoutError      no complete answer before the deadline; 408, 504
    GeminiBadAnswerError    not JSON, cut short, no candidate, an image that is none
Not tried again:
    GeminiRefusedError      safety block, words instead of a picture, a 400 about this very request
    GeminiRejectedError     bad key, no permission, unknown model, a redirect: nothing else will pass either

Messages hold an excerpt of what Gemini said, never the key, credentials of the URL, or picture bytes. For the
same reason errors are raised `from None`: the client library's own exceptions print whole bodies.
"""

from __future__ import annotations

import asyncio
import base64
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, NoReturn, TypeVar

import httpx2
from google import genai
from google.genai import errors as genai_errors
from google.genai import types
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential_jitter,
)

from quel_dagster.errors import (
    GeminiBadAnswerError,
    GeminiError,
    GeminiRateLimitedError,
    GeminiRefusedError,
    GeminiRejectedError,
    GeminiTimeoutError,
    GeminiUnavailableError,
    PictureError,
    SettingsError,
)
from quel_dagster.jobs.model import ImagePart
from quel_dagster.settings import Settings

T = TypeVar("T")

#: Entered around every single call, so that a limit over all runs can hold calls back; given whom to tell why. The
#: error of a failed call passes through its `__aexit__`: there a limiter sees a 429, and for how long.
Gate = Callable[[Callable[[str], None]], AbstractAsyncContextManager[None]]
#: Entered around every single call too, before the gate.
Turn = Callable[[], AbstractAsyncContextManager[None]]

TEMPERATURE = 0.45
LONGEST_BACKOFF_SECONDS = 60.0
#: Asked to wait longer than this, a call gives up instead: a daily quota does not come back within a run.
LONGEST_RETRY_AFTER_SECONDS = 300.0
_EXCERPT_CHARACTERS = 240


@dataclass(frozen=True, slots=True)
class Generation(Generic[T]):
    """One picture, and what it took to get it."""

    #: what `accept` made of the picture's bytes
    result: T
    #: requests sent, 1 … attempts
    attempts: int
    #: seconds spent in calls to Gemini, failed ones included
    seconds: float
    #: seconds spent waiting: in backoff and at the gate
    waited: float


class GeminiClient:
    """Asks Gemini for pictures. Build one per process; it serves many tasks and event loops."""

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str | None,
        model: str,
        timeout_seconds: float = 120,
        attempts: int = 5,
        backoff_seconds: float = 1.0,
        gate: Gate | None = None,
    ) -> None:
        """
        Args:
            api_key: the value of GEMINI_API_KEY.
            base_url: where the API is; a path in it is kept. None: Google's own endpoint.
            model: such as `gemini-2.5-flash-image`.
            timeout_seconds: hard deadline of one call, however slowly its answer drips.
            attempts: calls per picture, the first one included.
            backoff_seconds: first pause between attempts; doubles up to 60 s, with jitter.
            gate: see `Gate`.

        Raises:
            SettingsError: the key or the URL cannot be used.
        """
        if not api_key.isascii() or not api_key.isprintable() or " " in api_key or not api_key:
            raise SettingsError("GEMINI_API_KEY: empty, or holds characters that no key has; copy it again.")
        self.model = model
        self._key = api_key
        self._timeout = timeout_seconds
        self._attempts = attempts
        self._backoff = backoff_seconds
        self._gate: Gate = gate or _open
        address, headers = _address(base_url)
        self._where = address or "Google"
        self._connections = _Connections()
        self._client = genai.Client(
            vertexai=False,
            api_key=api_key,
            http_options=types.HttpOptions(
                api_version="v1beta",  # where image settings are documented
                base_url=address,
                headers=headers,
                timeout=max(1, round(timeout_seconds * 1000)),
                httpx_async_client=self._connections,
            ),
        )
        self._wait_backoff = wait_exponential_jitter(
            initial=backoff_seconds, max=LONGEST_BACKOFF_SECONDS, jitter=backoff_seconds
        )

    @classmethod
    def from_settings(cls, settings: Settings, *, gate: Gate | None = None) -> GeminiClient:
        """The client that the environment describes.

        Raises:
            SettingsError: GEMINI_API_KEY is missing, or a value cannot be used.
        """
        if settings.gemini_api_key is None:
            raise SettingsError("GEMINI_API_KEY: missing. Set it in the environment or in .env.")
        return cls(
            api_key=settings.gemini_api_key.get_secret_value(),
            base_url=settings.gemini_base_url,
            model=settings.gemini_model,
            timeout_seconds=settings.gemini_timeout_seconds,
            attempts=settings.gemini_attempts,
            backoff_seconds=settings.gemini_backoff_seconds,
            gate=gate,
        )

    async def generate(
        self,
        *,
        text: str,
        parts: Sequence[ImagePart],
        aspect_ratio: str,
        accept: Callable[[bytes], Awaitable[T]],
        turn: Turn = nullcontext,
        on_wait: Callable[[str], None] = lambda _why: None,
        on_admitted: Callable[[float], None] = lambda _seconds: None,
        on_call: Callable[[int], None] | None = None,
        on_retry: Callable[[int, GeminiError, float], None] | None = None,
    ) -> Generation[T]:
        """Ask for one picture, again where that may help (domain.md §6).

        Args:
            text: what is asked for; goes last.
            parts: encoded reference pictures, in the order that the text numbers them.
            aspect_ratio: such as `16:9`.
            accept: decodes the picture's bytes; a `PictureError` from it is a broken answer and is retried.
            turn: entered around each call, before the gate: the caller's own bound on calls at a time. A picture that
                pauses between attempts, or is being decoded, holds no turn. Not counted as waiting.
            on_wait: told why, when the gate holds a call back.
            on_admitted: told how many seconds the gate held a call back, before each. They count for no deadline and
                are no attempt.
            on_call: told the attempt's number, from 1, right before its request.
            on_retry: told the failed attempt's number, its error, and the seconds until the next attempt.

        Raises:
            GeminiError: no picture; the class says why (see the module).
        """
        pictures = [types.Part.from_bytes(data=part.data, mime_type=part.mime_type) for part in parts]
        contents = types.Content(role="user", parts=[*pictures, types.Part.from_text(text=text)])
        config = types.GenerateContentConfig(
            temperature=TEMPERATURE,
            response_modalities=["IMAGE"],
            image_config=types.ImageConfig(aspect_ratio=aspect_ratio),
            # One call is one request: nothing is sent on the library's own account.
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
            automatic_continuation=False,
        )
        calling = waiting = 0.0

        def before_sleep(state: RetryCallState) -> None:
            nonlocal waiting
            pause = state.upcoming_sleep
            waiting += pause
            if on_retry is not None:
                on_retry(state.attempt_number, _error_of(state), pause)

        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._attempts),
            retry=retry_if_exception(_worth_another_attempt),
            wait=self._pause,
            before_sleep=before_sleep,
            sleep=asyncio.sleep,
            reraise=True,
        )
        try:
            async for attempt in retrying:
                number = attempt.retry_state.attempt_number
                with attempt:
                    async with turn():
                        at_gate = time.monotonic()
                        async with self._gate(on_wait):
                            started = time.monotonic()
                            waiting += started - at_gate
                            on_admitted(started - at_gate)
                            if on_call is not None:
                                on_call(number)
                            try:
                                answer = await self._call(contents, config)
                            finally:
                                calling += time.monotonic() - started
                    result = await self._accepted(self._picture(answer), accept)
                    return Generation(result, attempts=number, seconds=calling, waited=waiting)
        except GeminiError as error:
            if error.transient and number > 1:
                error.args = (f"{error} (tried {number} times)",)
            raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def aclose(self) -> None:
        """Close the connections of the running event loop; a later call, on any loop, opens new ones."""
        await self._connections.aclose()

    # --- one call ------------------------------------------------------------------------------------

    async def _call(
        self, contents: types.Content, config: types.GenerateContentConfig
    ) -> types.GenerateContentResponse:
        """Send one request and read its answer whole, before the deadline."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._client.aio.models.generate_content(
                    model=self.model, contents=contents, config=config
                )
        except genai_errors.APIError as error:
            self._raise_for(error)
        except (TimeoutError, httpx2.TimeoutException):
            raise GeminiTimeoutError(
                f"Gemini at {self._where} did not finish its answer within {self._timeout:g} s."
            ) from None
        except (httpx2.ConnectError, httpx2.ProxyError, httpx2.UnsupportedProtocol) as error:
            raise GeminiUnavailableError(
                f"Cannot reach Gemini at {self._where} ({self._excerpt(error) or type(error).__name__}); "
                "check the network and GEMINI_BASE_URL."
            ) from None
        except httpx2.DecodingError:
            raise GeminiBadAnswerError("Gemini's answer was broken: its compression does not decode.") from None
        except (httpx2.HTTPError, OSError) as error:
            raise GeminiUnavailableError(
                f"The connection to Gemini at {self._where} broke before its answer was complete "
                f"({type(error).__name__})."
            ) from None
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            # What the client library raises for a 200 that is not JSON, or JSON of another shape.
            raise GeminiBadAnswerError(
                f"Gemini's answer was broken: not the JSON that was expected ({type(error).__name__})."
            ) from None

    def _raise_for(self, error: genai_errors.APIError) -> NoReturn:
        """Turn an HTTP error status into the error that says what to do."""
        code = error.code
        said = self._excerpt(error.message).rstrip(".")
        status = f" {self._excerpt(error.status)}" if error.status else ""
        what = f"HTTP {code}{status}{f': {said}' if said else ''}"
        if code == 429:
            asked = _retry_after(error)
            wait = f"; it asks to wait {asked:g} s" if asked else ""
            raise GeminiRateLimitedError(
                f"Gemini's quota is used up for the moment ({what}){wait}. "
                "Raise the quota or run fewer jobs at a time.",
                retry_after=asked,
            ) from None
        if code in {408, 504}:
            raise GeminiTimeoutError(f"Gemini did not finish within its own deadline ({what}).") from None
        if code >= 500 or code in {409, 499}:
            unavailable = GeminiUnavailableError(f"Gemini is not available ({what}).")
            unavailable.retry_after = _retry_after(error)
            raise unavailable from None
        if code in {413, 415, 422} or (code == 400 and not _about_the_installation(error)):
            raise GeminiRefusedError(
                f"Gemini cannot use this request ({what}); change the prompt or the reference pictures."
            ) from None
        if 200 <= code < 300:
            raise GeminiBadAnswerError(f"Gemini's answer was broken: empty ({what}).") from None
        remedy = {
            300: "GEMINI_BASE_URL points at something that redirects; set the final address.",
            404: f"check GEMINI_MODEL ({self.model}) and GEMINI_BASE_URL.",
        }.get(300 if 300 <= code < 400 else code, "check GEMINI_API_KEY, its permissions and billing.")
        raise GeminiRejectedError(f"Gemini refuses every request of this installation ({what}); {remedy}") from None

    # --- its answer ----------------------------------------------------------------------------------

    def _picture(self, answer: types.GenerateContentResponse) -> bytes:
        """The first inline image of the answer (domain.md §6)."""
        feedback = answer.prompt_feedback
        if feedback is not None and feedback.block_reason is not None:
            said = self._excerpt(feedback.block_reason_message)
            raise GeminiRefusedError(
                f"Gemini blocked the request ({_name(feedback.block_reason)}{f': {said}' if said else ''}); "
                "change the prompt or the reference pictures."
            )
        if not answer.candidates:
            raise GeminiBadAnswerError("Gemini's answer was broken: it holds no candidate.")
        blobs = [part.inline_data for part in _parts(answer) if part.inline_data is not None]
        for blob in blobs:
            if blob.data and (blob.mime_type or "image/").lower().startswith("image/"):
                return blob.data
        if blobs:
            kinds = ", ".join(sorted({self._excerpt(blob.mime_type) or "no type" for blob in blobs if blob.data}))
            raise GeminiBadAnswerError(
                f"Gemini's answer was broken: {kinds} instead of a picture."
                if kinds
                else "Gemini's answer was broken: a picture of zero bytes."
            )
        reason = _name(answer.candidates[0].finish_reason)
        words = self._excerpt(" ".join(part.text for part in _parts(answer) if part.text))
        if reason in _BLOCKED:
            raise GeminiRefusedError(
                f"Gemini declined to make this picture ({reason}{f': {words}' if words else ''}); "
                "change the prompt or the reference pictures."
            )
        if words:
            raise GeminiRefusedError(f"Gemini answered with words instead of a picture: “{words}”")
        raise GeminiBadAnswerError(f"Gemini's answer holds no picture (finish reason {reason}).")

    @staticmethod
    async def _accepted(picture: bytes, accept: Callable[[bytes], Awaitable[T]]) -> T:
        try:
            return await accept(picture)
        except PictureError as error:
            raise GeminiBadAnswerError(f"Gemini's answer was broken: {error}") from None

    # --- waiting and wording -------------------------------------------------------------------------

    def _pause(self, state: RetryCallState) -> float:
        """Seconds before the next attempt: the backoff, or what the server asked for if that is longer."""
        backoff = self._wait_backoff(state)
        asked = _error_of(state).retry_after
        if asked is None:
            return backoff
        # Everybody was told the same moment: spread out after it.
        return max(backoff, asked + random.uniform(0, self._backoff))  # noqa: S311  not a secret

    def _excerpt(self, said: object) -> str:
        """Somebody else's words, fit for a message: one short line without keys."""
        line = " ".join("".join(c if c.isprintable() else " " for c in str(said or "")).split())
        line = _GOOGLE_KEY.sub("***", line.replace(self._key, "***"))
        return line if len(line) <= _EXCERPT_CHARACTERS else line[: _EXCERPT_CHARACTERS - 1].rstrip() + "…"


def _open(_on_wait: Callable[[str], None]) -> AbstractAsyncContextManager[None]:
    """A gate that holds nobody back."""
    return nullcontext()


class _Connections(httpx2.AsyncClient):
    """The transport: a pool of connections per event loop, since a connection lives and dies with its loop."""

    def __init__(self) -> None:
        self._options: dict[str, Any] = {
            "verify": httpx2.create_ssl_context(),  # slow to build, so all pools share it
            "limits": httpx2.Limits(max_connections=None, max_keepalive_connections=50),
            "timeout": None,  # the deadline of a call is its own
            "follow_redirects": False,  # a redirect would carry the key to wherever it points
        }
        super().__init__(**self._options)
        self._pools: dict[asyncio.AbstractEventLoop, httpx2.AsyncClient] = {}

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        loop = asyncio.get_running_loop()
        if loop not in self._pools:
            for ended in [other for other in tuple(self._pools) if other.is_closed()]:
                self._pools.pop(ended, None)
            self._pools[loop] = httpx2.AsyncClient(**self._options)
        return await self._pools[loop].send(request, **options)

    async def aclose(self) -> None:
        """Close the pool of the running event loop."""
        if pool := self._pools.pop(asyncio.get_running_loop(), None):
            await pool.aclose()


#: Google's own messages quote keys ("Consumer 'api_key:AIza…' has been suspended").
_GOOGLE_KEY = re.compile(r"AIza[0-9A-Za-z_-]{20,}")

#: finish reasons that the same request will meet again
_BLOCKED = frozenset(
    {
        "SAFETY",
        "IMAGE_SAFETY",
        "PROHIBITED_CONTENT",
        "IMAGE_PROHIBITED_CONTENT",
        "BLOCKLIST",
        "SPII",
        "RECITATION",
        "IMAGE_RECITATION",
        "LANGUAGE",
        "ESCALATION",
        "MODEL_ARMOR",
    }
)


def _parts(answer: types.GenerateContentResponse) -> Iterator[types.Part]:
    """The parts meant for us; a thinking model's drafts are not."""
    for candidate in answer.candidates or ():
        for part in (candidate.content.parts if candidate.content else None) or ():
            if not part.thought:
                yield part


def _name(value: object) -> str:
    return str(getattr(value, "value", value) or "none given")


def _error_of(state: RetryCallState) -> GeminiError:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, GeminiError)  # noqa: S101  only those are retried
    return error


def _worth_another_attempt(error: BaseException) -> bool:
    return (
        isinstance(error, GeminiError) and error.transient and (error.retry_after or 0) <= LONGEST_RETRY_AFTER_SECONDS
    )


def _details(error: genai_errors.APIError) -> list[Mapping[str, Any]]:
    """`error.details[]` of Google's error body, whatever else came."""
    body = error.details
    inner = body.get("error") if isinstance(body, dict) else None
    details = inner.get("details") if isinstance(inner, dict) else None
    return [item for item in details if isinstance(item, dict)] if isinstance(details, list) else []


def _about_the_installation(error: genai_errors.APIError) -> bool:
    """Whether a 400 says that no request of ours will pass (key, billing, region), not just this one."""
    reasons = {str(item.get("reason")) for item in _details(error)}
    return (
        bool(reasons & {"API_KEY_INVALID", "API_KEY_EXPIRED"})
        or error.status == "FAILED_PRECONDITION"
        or "api key" in str(error.message).lower()
    )


def _retry_after(error: genai_errors.APIError) -> float | None:
    """Seconds that the server asked to wait: header Retry-After (seconds or a date), or RetryInfo."""
    asked = [_seconds(str(item.get("retryDelay", ""))) for item in _details(error)]
    asked.append(_seconds(str(getattr(error.response, "headers", {}).get("retry-after", ""))))
    given = [seconds for seconds in asked if seconds is not None]
    return max(given) if given else None


def _seconds(value: str) -> float | None:
    if match := re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*s?\s*", value):
        return float(match[1])
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds())


def _address(base_url: str | None) -> tuple[str | None, dict[str, str]]:
    """The base URL without its credentials, and the header that carries them instead.

    The transport logs the URL of every request, so a password must not be part of it.
    """
    if base_url is None:
        return None, {}
    try:
        url = httpx2.URL(base_url)
    except httpx2.InvalidURL:
        url = httpx2.URL("")
    if url.scheme not in {"http", "https"} or not url.host:
        raise SettingsError("GEMINI_BASE_URL: not a URL such as https://host/path.")
    if not url.userinfo:
        return str(url), {}
    login = base64.b64encode(f"{url.username}:{url.password}".encode()).decode()
    return str(url.copy_with(username=None, password=None)), {"Authorization": f"Basic {login}"}
