"""The interface of an object store, and the store that the settings name."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from quel_dagster.adapters.retry_policy import OBJECT_STORE, RetryPolicy
from quel_dagster.adapters.storage.listing import StoredObject
from quel_dagster.adapters.storage.object_store import FileStore, S3Store
from quel_dagster.adapters.storage.supabase import SupabaseStore
from quel_dagster.errors import SettingsError

if TYPE_CHECKING:
    from quel_dagster.settings import Settings


class ObjectStore(Protocol):
    """Objects under keys (`generated-images/user-…/….webp`), from many tasks of one long-lived event loop.

    Every call checks the key before anything is opened, retries where that may help, and ends before a deadline.
    All raise StorageKeyError for a key that points outside, StorageUnavailableError when the store did not answer in
    time or after several attempts, and StorageError for a permanent failure.
    """

    @property
    def backend(self) -> str:
        """`supabase`, `s3` or `file`: what `attach_storage_type` says (domain.md §2)."""

    async def put(self, key: str, data: bytes, *, content_type: str) -> None:
        """Store an object whole or not at all; an existing one is replaced."""

    async def get(self, key: str, *, max_bytes: int) -> bytes:
        """Read an object; ObjectNotFoundError if there is none, StorageError if it is larger than `max_bytes`."""

    async def size(self, key: str) -> int:
        """Bytes of an object; ObjectNotFoundError if there is none."""

    async def delete(self, key: str) -> None:
        """Delete an object. Deleting one that does not exist succeeds."""

    def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        """Yield every object below the folder `prefix`, at any depth, in no given order; all objects when empty.

        `prefix` names whole folders: `a/b` lists `a/b/c.webp` and not `a/bc.webp`. Objects that appear or vanish
        meanwhile may be missed, so read the listing to its end before you delete what it named.
        """

    async def aclose(self) -> None:
        """Close the connections."""


def open_store(settings: Settings, *, retry_policy: RetryPolicy = OBJECT_STORE) -> ObjectStore:
    """Return the store of `STORAGE_URL`; without it Supabase, if the `SUPABASE_*` variables are set.

    Opens no connection.

    Raises:
        SettingsError: a setting is missing or wrong; the line names the variable.
    """
    if settings.storage_url is None:
        if not (settings.supabase_url or settings.supabase_service_key or settings.storage_base_url):
            raise SettingsError("STORAGE_URL is not set: file:///path, s3://bucket?endpoint=…&region=…, or supabase:")
        return _supabase(settings, retry_policy)
    try:
        url = urlsplit(settings.storage_url.get_secret_value())
    except ValueError:
        raise SettingsError("STORAGE_URL is not a URL") from None
    match url.scheme:
        case "file":
            return _file(url, retry_policy)
        case "s3":
            return _s3(url, settings, retry_policy)
        case "supabase":
            return _supabase(settings, retry_policy)
    raise SettingsError("STORAGE_URL must begin with file:, s3: or supabase:")


def _file(url: SplitResult, retry_policy: RetryPolicy) -> FileStore:
    folder = Path(unquote(url.path))
    if url.netloc not in {"", "localhost"} or not folder.is_absolute():
        raise SettingsError("STORAGE_URL: a folder is written file:///absolute/path, with three slashes")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"STORAGE_URL: the folder {folder} cannot be made ({error.strerror})") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SettingsError(f"STORAGE_URL: the folder {folder} is not writable for this user")
    return FileStore(folder, retry_policy=retry_policy)


def _s3(url: SplitResult, settings: Settings, retry_policy: RetryPolicy) -> S3Store:
    if not url.hostname:
        raise SettingsError("STORAGE_URL: name the bucket, as in s3://bucket/prefix?endpoint=…&region=…")
    if "@" in url.netloc:
        raise SettingsError("STORAGE_URL: credentials belong into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    options = dict(parse_qsl(url.query, keep_blank_values=True))
    endpoint = options.pop("endpoint", None) or settings.aws_endpoint_url
    region = options.pop("region", None) or settings.aws_region
    if options:
        raise SettingsError(f"STORAGE_URL: unknown option {sorted(options)[0]!r}; there are endpoint and region")
    if endpoint is not None:
        _check_http_url("STORAGE_URL: endpoint", endpoint)
    key, secret = settings.aws_access_key_id, settings.aws_secret_access_key
    if (key is None) != (secret is None) or (endpoint is not None and key is None):
        missing = "AWS_ACCESS_KEY_ID" if key is None else "AWS_SECRET_ACCESS_KEY"
        raise SettingsError(f"{missing} is not set, and STORAGE_URL needs it")
    if endpoint is None and region is None:
        raise SettingsError("STORAGE_URL: name the region, as in s3://bucket?region=eu-west-1, or set AWS_REGION")
    return S3Store(
        url.netloc,
        prefix=unquote(url.path).strip("/"),
        endpoint=endpoint,
        region=region,
        access_key_id=key.get_secret_value() if key else None,
        secret_access_key=secret.get_secret_value() if secret else None,
        session_token=settings.aws_session_token.get_secret_value() if settings.aws_session_token else None,
        retry_policy=retry_policy,
    )


def _supabase(settings: Settings, retry_policy: RetryPolicy) -> SupabaseStore:
    if not settings.supabase_url:
        raise SettingsError("SUPABASE_URL is not set; uploads to Supabase need it")
    if settings.supabase_service_key is None:
        raise SettingsError("SUPABASE_SERVICE_KEY is not set; uploads to Supabase need it")
    if not settings.storage_base_url:
        raise SettingsError("SUPABASE_STORAGE_BASE_URL is not set; downloads from Supabase need it")
    _check_http_url("SUPABASE_URL", settings.supabase_url)
    _check_http_url("SUPABASE_STORAGE_BASE_URL", settings.storage_base_url)
    return SupabaseStore(
        settings.supabase_url,
        service_key=settings.supabase_service_key.get_secret_value(),
        public_base_url=settings.storage_base_url,
        retry_policy=retry_policy,
    )


def _check_http_url(name: str, value: str) -> None:
    try:
        url = urlsplit(value)
        good = url.scheme in {"http", "https"} and bool(url.hostname) and (url.port or 1) > 0
    except ValueError:
        good = False
    if not good:
        raise SettingsError(f"{name} must be an http or https URL")
