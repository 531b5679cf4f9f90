"""`supabase:`: uploads through Supabase's own client, downloads from the public base URL (domain.md §5)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import quote

import httpx
from storage3 import AsyncStorageClient
from storage3.exceptions import StorageApiError

from quel_dagster.adapters.storage.patience import Patience
from quel_dagster.errors import ObjectNotFoundError, StorageError, StorageUnavailableError
from quel_dagster.jobs.references import checked_key

BUCKET = "attachments"

_CONNECT_TIMEOUT = 5.0
_TRANSIENT_STATUS = frozenset({408, 425, 429})
#: enough of an error's body to read its JSON
_ERROR_BYTES = 4_096


class SupabaseStore:
    """The bucket `attachments` of a Supabase project."""

    backend = "supabase"

    def __init__(self, url: str, *, service_key: str, public_base_url: str, patience: Patience) -> None:
        self._public_base_url = public_base_url.rstrip("/") + "/"
        self._patience = patience
        # A redirect could lead anywhere, and would take the service key along: neither client follows one.
        timeout = httpx.Timeout(patience.attempt_timeout, connect=_CONNECT_TIMEOUT)
        limits = httpx.Limits(max_connections=32, max_keepalive_connections=16)
        self._uploads = httpx.AsyncClient(timeout=timeout, limits=limits, follow_redirects=False)
        self._downloads = httpx.AsyncClient(
            timeout=timeout,
            limits=limits,
            follow_redirects=False,
            headers={"accept-encoding": "identity"},  # the size limit is to hold for what arrives
        )
        self._bucket = AsyncStorageClient(
            f"{url.rstrip('/')}/storage/v1/",
            {"apikey": service_key, "authorization": f"Bearer {service_key}"},
            http_client=self._uploads,
        ).from_(BUCKET)

    async def put(self, key: str, data: bytes, *, content_type: str) -> None:
        key = checked_key(key)

        async def attempt() -> None:
            with _named_errors(missing=StorageError(f"Supabase has no bucket {BUCKET!r}; check SUPABASE_URL")):
                await self._bucket.upload(key, data, {"content-type": content_type, "upsert": "true"})

        await self._patience.call(f"upload of {key}", attempt)

    async def get(self, key: str, *, max_bytes: int) -> bytes:
        key = checked_key(key)
        too_large = StorageError(f"the object is larger than the {max_bytes:,} bytes that are read")

        async def attempt() -> bytes:
            with _named_errors(missing=ObjectNotFoundError()):
                async with self._download(key) as answer:
                    if int(answer.headers.get("content-length", 0)) > max_bytes:
                        raise too_large
                    data = bytearray()
                    async for chunk in answer.aiter_raw():
                        data += chunk
                        if len(data) > max_bytes:
                            raise too_large
                    return bytes(data)

        return await self._patience.call(f"download of {key}", attempt)

    async def size(self, key: str) -> int:
        key = checked_key(key)

        async def attempt() -> int:
            with _named_errors(missing=ObjectNotFoundError()):
                return int((await self._bucket.info(key))["size"])

        return await self._patience.call(f"size of {key}", attempt)

    async def aclose(self) -> None:
        await self._uploads.aclose()
        await self._downloads.aclose()

    @asynccontextmanager
    async def _download(self, key: str) -> AsyncIterator[httpx.Response]:
        async with self._downloads.stream("GET", self._public_base_url + quote(key)) as answer:
            if answer.is_redirect:
                raise StorageError("the server redirects elsewhere, which is refused; check SUPABASE_STORAGE_BASE_URL")
            if not answer.is_success:
                raise await _api_error(answer)
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise StorageError("the server sent the object compressed, although it was asked not to")
            yield answer


async def _api_error(answer: httpx.Response) -> StorageApiError:
    """A refused download as the error that storage3 raises for a refused upload."""
    body = b""
    async for chunk in answer.aiter_raw():
        body += chunk
        if len(body) > _ERROR_BYTES:
            break
    try:
        told = httpx.Response(answer.status_code, content=body).json()
        return StorageApiError(told["message"], told["error"], told["statusCode"])
    except (ValueError, LookupError, TypeError):
        return StorageApiError("", "", answer.status_code)


@contextmanager
def _named_errors(*, missing: StorageError) -> Iterator[None]:
    """storage3's and httpx's exceptions as ours, without the server's words: it may repeat what it was sent."""
    try:
        yield
    except StorageApiError as error:
        raise _status_error(int(error.status), missing) from None
    except httpx.TimeoutException:
        raise StorageUnavailableError("Supabase did not answer in time") from None
    except httpx.TransportError as error:
        raise StorageUnavailableError(f"the connection to Supabase failed ({type(error).__name__})") from None
    except (httpx.HTTPError, httpx.InvalidURL, LookupError, TypeError, ValueError) as error:
        raise StorageUnavailableError(f"Supabase's answer cannot be read ({type(error).__name__})") from None


def _status_error(status: int, missing: StorageError) -> StorageError:
    if status == 404:
        return missing
    if status in {401, 403}:
        return StorageError(f"Supabase refuses the key (HTTP {status}); check SUPABASE_SERVICE_KEY")
    if status == 413:
        return StorageError("Supabase refuses the object as too large (HTTP 413); see the bucket's limit")
    if status >= 500 or status in _TRANSIENT_STATUS:
        return StorageUnavailableError(f"Supabase answered HTTP {status}")
    return StorageError(f"Supabase answered HTTP {status}")
