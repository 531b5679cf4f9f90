"""Objects over HTTP: bounded in size and time, never redirected; and what an HTTP failure is called."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import httpx

from quel_dagster.adapters.storage.patience import Patience
from quel_dagster.errors import ObjectNotFoundError, StorageError, StorageUnavailableError

CONNECT_TIMEOUT = 5.0
_TRANSIENT_STATUS = frozenset({408, 425, 429})
#: enough of an error's body to read its JSON
_ERROR_BYTES = 4_096
#: so that the size limit holds for what arrives
_UNCOMPRESSED = {"accept-encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Service:
    """Who is being talked to, for messages. What the server itself says stays out: it may repeat what it was sent."""

    #: `Supabase`
    name: str
    #: the variables to look at when it refuses
    variables: str

    def status_error(self, status: int, *, missing: StorageError | None = None) -> StorageError:
        """What an answer with this status means; `missing` is what 404 means."""
        if status == 404:
            return missing or ObjectNotFoundError()
        if status in {401, 403}:
            return StorageError(f"{self.name} refuses access (HTTP {status}); check {self.variables}")
        if status == 413:
            return StorageError(f"{self.name} refuses the object as too large (HTTP 413); see the bucket's limit")
        if status >= 500 or status in _TRANSIENT_STATUS:
            return StorageUnavailableError(f"{self.name} answered HTTP {status}")
        return StorageError(f"{self.name} answered HTTP {status}; check {self.variables}")

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """httpx's exceptions as ours, and those of reading an answer that makes no sense."""
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
    """httpx logs every URL; the query of a signed one is a secret."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(arg.copy_with(query=None) if isinstance(arg, httpx.URL) else arg for arg in record.args)
        return True


_WITHOUT_QUERY = _WithoutQuery()


def http_client(patience: Patience) -> httpx.AsyncClient:
    """A client that never follows a redirect, which could lead anywhere and take the key along."""
    logging.getLogger("httpx").addFilter(_WITHOUT_QUERY)
    return httpx.AsyncClient(
        timeout=httpx.Timeout(patience.attempt_timeout, connect=CONNECT_TIMEOUT),
        limits=httpx.Limits(max_connections=32, max_keepalive_connections=16),
        follow_redirects=False,
    )


class HttpObjects:
    """GET, HEAD, PUT and DELETE of objects by URL. The URL may be signed: it is in no message."""

    def __init__(self, service: Service, client: httpx.AsyncClient) -> None:
        self._service = service
        self._client = client

    async def get(self, url: str, *, max_bytes: int) -> bytes:
        """The object, read no further than `max_bytes`; raises StorageError and its kinds."""
        data = bytearray()
        async with self._answer("GET", url) as answer:
            _check_size(int(answer.headers.get("content-length", 0)), max_bytes)
            async for chunk in answer.aiter_raw():
                data += chunk
                _check_size(len(data), max_bytes)
        return bytes(data)

    async def size(self, url: str) -> int:
        """Bytes of the object, as the server declares them."""
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
                    raise self._service.status_error(await _told_status(answer))
                if answer.headers.get("content-encoding", "identity") != "identity":
                    raise StorageError(f"{self._service.name} sent the object compressed, although asked not to")
                yield answer


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise StorageError(f"the object is larger than the {max_bytes:,} bytes that are read")


async def _told_status(answer: httpx.Response) -> int:
    """The status of a failure; Supabase sends HTTP 400 and the real one in the body."""
    body = b""
    async for chunk in answer.aiter_raw():
        body += chunk
        if len(body) > _ERROR_BYTES:
            break
    try:
        return int(httpx.Response(answer.status_code, content=body).json()["statusCode"])
    except (ValueError, LookupError, TypeError):
        return answer.status_code
