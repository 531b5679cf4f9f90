"""Read and write objects over HTTP, with limits of size and time and without redirects; map HTTP failures to errors."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

import httpx

from quel_dagster.adapters.retry_policy import RetryPolicy
from quel_dagster.errors import ObjectNotFoundError, StorageError, StorageRefusedError, StorageUnavailableError

CONNECT_TIMEOUT = 5.0
_TRANSIENT_STATUS = frozenset({408, 423, 425, 429})
_REMEDIES: Final[Mapping[int, str]] = {
    402: "it asks for a payment: see the plan and the usage of the project",
    413: "the object is too large for it: raise the bucket's size limit",
    415: "its bucket does not take this content type: allow image/webp",
}
#: Supabase's error codes, where they stand in place of a status (Storage's documentation, "Error codes")
_STATUS_OF_CODE: Final[Mapping[str, int]] = {
    "DatabaseTimeout": 544,
    "DatabaseError": 500,
    "InternalError": 500,
    "SlowDown": 503,
    "LockTimeout": 423,
    "ResourceLocked": 423,
    "NoSuchBucket": 404,
    "NoSuchKey": 404,
    "EntityTooLarge": 413,
    "InvalidMimeType": 415,
    "AccessDenied": 403,
    "InvalidJWT": 401,
    "InvalidSignature": 403,
    "SignatureDoesNotMatch": 403,
}
#: enough of an error's body to read its JSON
_ERROR_BYTES = 4_096
#: so that the size limit holds for what arrives
_UNCOMPRESSED = {"accept-encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Service:
    """A store's name for messages. They never quote the server, which may repeat the request."""

    #: `Supabase`
    name: str
    #: the settings to check when the store refuses
    variables: str

    def status_error(self, status: int, *, missing: StorageError | None = None) -> StorageError:
        """Return the error for an answer with this status; `missing` is the error for 404."""
        if status == 404:
            return missing or ObjectNotFoundError()
        if status >= 500 or status in _TRANSIENT_STATUS:
            return StorageUnavailableError(f"{self.name} answered HTTP {status}")
        remedy = _REMEDIES.get(status, f"check {self.variables}")
        return StorageRefusedError(f"{self.name} refuses the request (HTTP {status}); {remedy}")

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Map httpx's exceptions, and those of an invalid answer, to StorageError and its kinds."""
        try:
            yield
        except httpx.TimeoutException:
            raise StorageUnavailableError(f"{self.name} did not answer in time") from None
        except httpx.TransportError as error:
            raise StorageUnavailableError(f"the connection to {self.name} failed ({type(error).__name__})") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise StorageError(f"{self.name} cannot be asked ({type(error).__name__})") from None
        except (LookupError, TypeError, ValueError) as error:
            raise StorageUnavailableError(f"{self.name}'s answer cannot be read ({type(error).__name__})") from None


class _WithoutQuery(logging.Filter):
    """Remove the query from httpx's log lines: that of a signed URL is a secret."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(arg.copy_with(query=None) if isinstance(arg, httpx.URL) else arg for arg in record.args)
        return True


_WITHOUT_QUERY = _WithoutQuery()


def http_client(retry_policy: RetryPolicy) -> httpx.AsyncClient:
    """Return a client that follows no redirect: another host would get the service key."""
    logging.getLogger("httpx").addFilter(_WITHOUT_QUERY)
    return httpx.AsyncClient(
        timeout=httpx.Timeout(retry_policy.attempt_timeout, connect=CONNECT_TIMEOUT),
        limits=httpx.Limits(max_connections=32, max_keepalive_connections=16),
        follow_redirects=False,
    )


class HttpObjects:
    """GET, HEAD, PUT and DELETE of objects by URL. The URL may be signed: it is in no message."""

    def __init__(self, service: Service, client: httpx.AsyncClient) -> None:
        self._service = service
        self._client = client

    async def get(self, url: str, *, max_bytes: int) -> bytes:
        """Return the object, reading at most `max_bytes`; raises StorageError and its kinds."""
        data = bytearray()
        async with self._answer("GET", url) as answer:
            _check_size(int(answer.headers.get("content-length", 0)), max_bytes)
            async for chunk in answer.aiter_raw():
                data += chunk
                _check_size(len(data), max_bytes)
        return bytes(data)

    async def size(self, url: str) -> int:
        """Return the size in bytes that the server declares."""
        async with self._answer("HEAD", url) as answer:
            return int(answer.headers["content-length"])

    async def put(self, url: str, data: bytes, *, content_type: str) -> None:
        async with self._answer("PUT", url, data, content_type=content_type):
            pass

    async def delete(self, url: str) -> None:
        async with self._answer("DELETE", url):
            pass

    @asynccontextmanager
    async def _answer(
        self, method: str, url: str, data: bytes | None = None, *, content_type: str | None = None
    ) -> AsyncIterator[httpx.Response]:
        headers = _UNCOMPRESSED if content_type is None else {**_UNCOMPRESSED, "content-type": content_type}
        with self._service.named_errors():
            async with self._client.stream(method, url, content=data, headers=headers) as answer:
                if answer.is_redirect:
                    raise StorageError(f"{self._service.name} redirects elsewhere, which is refused")
                if not answer.is_success:
                    raise self._service.status_error(await _status_of_failure(answer))
                if answer.headers.get("content-encoding", "identity") != "identity":
                    raise StorageError(f"{self._service.name} sent the object compressed, although asked not to")
                yield answer


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise StorageError(f"the object is larger than the {max_bytes:,} bytes that are read")


async def _status_of_failure(answer: httpx.Response) -> int:
    body = b""
    async for chunk in answer.aiter_raw():
        body += chunk
        if len(body) > _ERROR_BYTES:
            break
    return status_in_body(httpx.Response(answer.status_code, content=body))


def status_in_body(answer: httpx.Response) -> int:
    """Return the status of a failure; Supabase sends HTTP 400 with a status or an error code in the body."""
    try:
        document = answer.json()
    except ValueError:
        return answer.status_code
    if not isinstance(document, dict):
        return answer.status_code
    named = [str(document.get(field)) for field in ("statusCode", "code", "error")]
    if re.fullmatch(r"[45]\d\d", named[0]):
        return int(named[0])
    return next((_STATUS_OF_CODE[name] for name in named if name in _STATUS_OF_CODE), answer.status_code)
