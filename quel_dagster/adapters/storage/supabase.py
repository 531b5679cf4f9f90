"""`supabase:`: uploads through Supabase's own client, downloads from the public base URL (domain.md §5)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

from storage3 import AsyncStorageClient
from storage3.exceptions import StorageApiError

from quel_dagster.adapters.storage.http import HttpObjects, Service, http_client
from quel_dagster.adapters.storage.patience import Patience
from quel_dagster.errors import StorageError
from quel_dagster.jobs.references import checked_key

BUCKET = "attachments"

_UPLOAD = Service("Supabase", "SUPABASE_URL and SUPABASE_SERVICE_KEY")
_DOWNLOAD = Service("Supabase", "SUPABASE_STORAGE_BASE_URL and whether the bucket is public")


class SupabaseStore:
    """The bucket `attachments` of a Supabase project."""

    backend = "supabase"

    def __init__(self, url: str, *, service_key: str, public_base_url: str, patience: Patience) -> None:
        self._public_base_url = public_base_url.rstrip("/") + "/"
        self._patience = patience
        self._client = http_client(patience)
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

        await self._patience.call(f"upload of {key}", attempt)

    async def get(self, key: str, *, max_bytes: int) -> bytes:
        key = checked_key(key)
        url = self._public_base_url + quote(key)
        return await self._patience.call(f"download of {key}", lambda: self._objects.get(url, max_bytes=max_bytes))

    async def size(self, key: str) -> int:
        key = checked_key(key)

        async def attempt() -> int:
            # not from the public URL, where a cache may still hold what was replaced
            with _named_errors():
                return int((await self._bucket.info(key))["size"])

        return await self._patience.call(f"size of {key}", attempt)

    async def delete(self, key: str) -> None:
        key = checked_key(key)

        async def attempt() -> None:
            with _named_errors(missing=_no_bucket()):
                await self._bucket.remove([key])

        await self._patience.call(f"removal of {key}", attempt)

    async def aclose(self) -> None:
        await self._client.aclose()


def _no_bucket() -> StorageError:
    return StorageError(f"Supabase has no bucket {BUCKET!r}; check SUPABASE_URL")


@contextmanager
def _named_errors(*, missing: StorageError | None = None) -> Iterator[None]:
    """storage3's exceptions, and those that come through it, as ours."""
    try:
        with _UPLOAD.named_errors():
            yield
    except StorageApiError as error:
        raise _UPLOAD.status_error(int(error.status), missing=missing) from None
