"""`file:` and `s3:` through obstore (Rust's object_store): the one writes with it, the other signs with it.

obstore's calls are made in threads of Python's. Those that it makes awaitable end in a thread of its own that calls
into Python; one that is still there while the interpreter goes aborts the process (docs/decisions/storage.md).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import obstore
from obstore.exceptions import BaseError, GenericError, PermissionDeniedError
from obstore.store import LocalStore
from obstore.store import S3Store as ObstoreS3Store

from quel_dagster.adapters.storage.http import CONNECT_TIMEOUT, HttpObjects, Service, http_client
from quel_dagster.adapters.storage.patience import Patience
from quel_dagster.errors import ObjectNotFoundError, StorageError, StorageUnavailableError
from quel_dagster.jobs.references import checked_key

if TYPE_CHECKING:
    from obstore.store import S3Config

T = TypeVar("T")
_Method = Literal["GET", "HEAD", "PUT", "DELETE"]

#: as long as S3 lets clocks differ
_SIGNATURE_LIFETIME = timedelta(minutes=15)

_NO_SPACE = re.compile(r"os error (28|122)\b")  # ENOSPC, EDQUOT
_S3 = Service("the S3 store", "STORAGE_URL and the AWS_* variables")


class FileStore:
    """A folder. obstore writes beside the target and renames, so an object is there whole or not at all.

    A process that has used it must not fork: in the child every call would wait until its deadline.
    """

    backend = "file"

    def __init__(self, folder: Path, *, patience: Patience) -> None:
        self._store = LocalStore(prefix=folder, mkdir=True)
        self._patience = patience

    async def put(self, key: str, data: bytes, *, content_type: str) -> None:
        """`content_type` goes nowhere: a file has no place for it."""
        key = checked_key(key)

        def write() -> None:
            obstore.put(self._store, key, data, use_multipart=False)

        await self._call(f"upload of {key}", write)

    async def get(self, key: str, *, max_bytes: int) -> bytes:
        key = checked_key(key)

        def read() -> bytes:
            file = obstore.get(self._store, key)
            if file.meta["size"] > max_bytes:
                raise StorageError(f"the object is larger than the {max_bytes:,} bytes that are read")
            return bytes(file.bytes())

        return await self._call(f"download of {key}", read)

    async def size(self, key: str) -> int:
        key = checked_key(key)
        return await self._call(f"size of {key}", lambda: obstore.head(self._store, key)["size"])

    async def delete(self, key: str) -> None:
        key = checked_key(key)

        def remove() -> None:
            with suppress(FileNotFoundError):
                obstore.delete(self._store, key)

        await self._call(f"removal of {key}", remove)

    async def _call(self, what: str, work: Callable[[], T]) -> T:
        async def attempt() -> T:
            with _file_errors():
                return await asyncio.to_thread(work)

        return await self._patience.call(what, attempt)

    async def aclose(self) -> None:
        """There is nothing to close."""


class S3Store:
    """A bucket of anything that speaks S3. Credentials that are not given come from the machine's role.

    Requests are httpx's, as for the other stores, with URLs that obstore signs. An object goes up in one: a multipart
    upload leaves its parts behind when the process dies.
    """

    backend = "s3"

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str = "",
        endpoint: str | None = None,
        region: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        session_token: str | None = None,
        patience: Patience,
    ) -> None:
        config: S3Config = {}
        if endpoint is not None:
            config["endpoint"] = endpoint
        if region is not None:
            config["region"] = region
        if access_key_id is not None and secret_access_key is not None:
            config |= {"access_key_id": access_key_id, "secret_access_key": secret_access_key}
        if session_token is not None:
            config["session_token"] = session_token
        self._store = ObstoreS3Store(
            bucket,
            prefix=prefix or None,
            config=config,
            client_options={
                "allow_http": bool(endpoint and endpoint.startswith("http://")),
                "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT),
                "timeout": timedelta(seconds=patience.attempt_timeout),
            },
            retry_config={"max_retries": 0},
        )
        self._patience = patience
        self._client = http_client(patience)
        self._objects = HttpObjects(_S3, self._client)

    async def put(self, key: str, data: bytes, *, content_type: str) -> None:
        async def upload(url: str) -> None:
            try:
                await self._objects.put(url, data, content_type=content_type)
            except ObjectNotFoundError:
                raise StorageError("there is no such bucket; check STORAGE_URL") from None

        await self._call("upload", "PUT", key, upload)

    async def get(self, key: str, *, max_bytes: int) -> bytes:
        return await self._call("download", "GET", key, lambda url: self._objects.get(url, max_bytes=max_bytes))

    async def size(self, key: str) -> int:
        return await self._call("size", "HEAD", key, self._objects.size)

    async def delete(self, key: str) -> None:
        async def remove(url: str) -> None:
            with suppress(ObjectNotFoundError):
                await self._objects.delete(url)

        await self._call("removal", "DELETE", key, remove)

    async def _call(self, what: str, method: _Method, key: str, request: Callable[[str], Awaitable[T]]) -> T:
        """Make `request` of a URL that is signed anew for each attempt."""
        key = checked_key(key)

        async def attempt() -> T:
            with _signing_errors():
                # in a thread, since a role's credentials are fetched over HTTP
                url = await asyncio.to_thread(obstore.sign, self._store, method, key, _SIGNATURE_LIFETIME)
            return await request(url)

        return await self._patience.call(f"{what} of {key}", attempt)

    async def aclose(self) -> None:
        await self._client.aclose()


@contextmanager
def _file_errors() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ObjectNotFoundError from None
    except PermissionDeniedError:
        raise StorageError("permission denied; check who owns the folder of STORAGE_URL") from None
    except (BaseError, OSError, ValueError) as error:
        if _NO_SPACE.search(str(error)):
            raise StorageError("the disk of STORAGE_URL is full; free some space") from None
        raise StorageError(_first_line(error)) from None


@contextmanager
def _signing_errors() -> Iterator[None]:
    """obstore's exceptions as ours; all that it asks anybody for is a role's credentials."""
    try:
        yield
    except GenericError:
        raise StorageUnavailableError("the machine's role gave no credentials; see the AWS_* variables") from None
    except (BaseError, OSError, ValueError) as error:
        raise StorageError(f"the S3 store cannot be used ({type(error).__name__}); check STORAGE_URL") from None


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
