"""`supabase:`: uploads through Supabase's own client, downloads from the public base URL (domain.md §5)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

import httpx
from storage3 import AsyncStorageClient
from storage3.exceptions import StorageApiError

from quel_dagster.adapters.retry_policy import RetryPolicy
from quel_dagster.adapters.storage.calls import call
from quel_dagster.adapters.storage.http import HttpObjects, Service, http_client, status_in_body
from quel_dagster.adapters.storage.listing import StoredObject, checked_folder
from quel_dagster.errors import StorageError, StorageRefusedError
from quel_dagster.jobs.references import checked_key

BUCKET = "attachments"
#: the server's default, which every version allows
_LIST_PAGE: Final = 100

_UPLOAD = Service("Supabase", "SUPABASE_URL and SUPABASE_SERVICE_KEY")
_DOWNLOAD = Service("Supabase", "SUPABASE_STORAGE_BASE_URL and whether the bucket is public")


class SupabaseStore:
    """The bucket `attachments` of a Supabase project."""

    backend = "supabase"

    def __init__(self, url: str, *, service_key: str, public_base_url: str, retry_policy: RetryPolicy) -> None:
        self._public_base_url = public_base_url.rstrip("/") + "/"
        self._retry_policy = retry_policy
        self._client = http_client(retry_policy)
        self._objects = HttpObjects(_DOWNLOAD, self._client)
        self._bucket = AsyncStorageClient(
            f"{url.rstrip('/')}/storage/v1/",
            {"apikey": service_key, "authorization": f"Bearer {service_key}"},
            http_client=self._client,
        ).from_(BUCKET)

    async def put(self, key: str, data: bytes, *, content_type: str) -> None:
        key = checked_key(key)

        async def attempt() -> None:
            with _named_errors(missing=_no_bucket()):
                await self._bucket.upload(key, data, {"content-type": content_type, "upsert": "true"})

        await call(self._retry_policy, f"upload of {key}", attempt)

    async def get(self, key: str, *, max_bytes: int) -> bytes:
        key = checked_key(key)
        url = self._public_base_url + quote(key)
        return await call(self._retry_policy, f"download of {key}", lambda: self._objects.get(url, max_bytes=max_bytes))

    async def size(self, key: str) -> int:
        key = checked_key(key)

        async def attempt() -> int:
            # not from the public URL, where a cache may still hold the replaced object
            with _named_errors():
                return int((await self._bucket.info(key))["size"])

        return await call(self._retry_policy, f"size of {key}", attempt)

    async def delete(self, key: str) -> None:
        key = checked_key(key)

        async def attempt() -> None:
            with _named_errors(missing=_no_bucket()):
                await self._bucket.remove([key])

        await call(self._retry_policy, f"removal of {key}", attempt)

    async def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        folders = [checked_folder(prefix)]
        while folders:
            folder = folders.pop()
            offset = 0
            while page := await self._page(folder, offset):
                for entry in page:
                    if isinstance(entry, StoredObject):
                        yield entry
                    else:
                        folders.append(entry)
                if len(page) < _LIST_PAGE:
                    break
                offset += len(page)

    async def _page(self, folder: str, offset: int) -> Sequence[StoredObject | str]:
        """Return the objects and the paths of the folders that lie directly in `folder`, from `offset` on."""

        async def attempt() -> Sequence[StoredObject | str]:
            with _named_errors(missing=_no_bucket()):
                entries = await self._bucket.list(
                    folder,
                    {"limit": _LIST_PAGE, "offset": offset, "sortBy": {"column": "name", "order": "asc"}},
                )
                return [_listed(entry, f"{folder}/" if folder else "") for entry in entries]

        return await call(self._retry_policy, f"listing of {folder or 'the bucket'}", attempt)

    async def aclose(self) -> None:
        await self._client.aclose()


def _listed(entry: dict[str, Any], folder: str) -> StoredObject | str:
    """Return an object, or the path of a folder, which has no id."""
    key = f"{folder}{entry['name']}"
    if entry["id"] is None:
        return key
    return StoredObject(key, int(entry["metadata"]["size"]), datetime.fromisoformat(entry["updated_at"]))


def _no_bucket() -> StorageError:
    return StorageRefusedError(f"Supabase has no bucket {BUCKET!r}; check SUPABASE_URL")


@contextmanager
def _named_errors(*, missing: StorageError | None = None) -> Iterator[None]:
    """Map storage3's exceptions, and those that pass through it, to StorageError and its kinds."""
    try:
        with _UPLOAD.named_errors():
            yield
    except StorageApiError as error:
        raise _UPLOAD.status_error(_status(error), missing=missing) from None


def _status(error: BaseException | None) -> int:
    """Return the status of a failure from the answer itself: storage3 keeps what its body names, a number or not."""
    while error is not None:
        if isinstance(error, httpx.HTTPStatusError):
            return status_in_body(error.response)
        error = error.__cause__ or error.__context__
    return 500
