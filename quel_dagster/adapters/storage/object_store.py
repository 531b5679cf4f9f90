"""`file:` and `s3:` through obstore (Rust's object_store): `file:` writes with it, `s3:` signs URLs with it.

obstore's blocking functions run in Python's threads. Its awaitable ones end in a thread of obstore that calls into
Python, and one that still runs at interpreter shutdown aborts the process (docs/decisions/storage.md).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import obstore
from obstore.exceptions import BaseError, GenericError, NotFoundError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore
from obstore.store import S3Store as ObstoreS3Store

from quel_dagster.adapters.retry_policy import RetryPolicy
from quel_dagster.adapters.storage.calls import call
from quel_dagster.adapters.storage.http import CONNECT_TIMEOUT, HttpObjects, Service, http_client
from quel_dagster.adapters.storage.listing import StoredObject, checked_folder
from quel_dagster.errors import ObjectNotFoundError, StorageError, StorageRefusedError, StorageUnavailableError
from quel_dagster.jobs.references import checked_key

if TYPE_CHECKING:
    from obstore import ListStream, ObjectMeta
    from obstore.store import S3Config

T = TypeVar("T")
_Method = Literal["GET", "HEAD", "PUT", "DELETE"]

#: the clock difference that S3 allows
_SIGNATURE_LIFETIME = timedelta(minutes=15)

_LIST_PAGE = 1_000

_NO_SPACE = re.compile(r"os error (28|122)\b")  # ENOSPC, EDQUOT
#: EIO and the errors of a network file system: ENOTCONN, ETIMEDOUT, EHOSTDOWN, EHOSTUNREACH, ESTALE
_DISK_UNREACHABLE = re.compile(r"os error (5|107|110|112|113|116)\b")
_S3 = Service("the S3 store", "STORAGE_URL and the AWS_* variables")


class FileStore:
    """A folder. obstore writes beside the target and renames, so an object is complete or absent.

    A process that has used it must not fork: in the child every call would wait until its deadline.
    """

    backend = "file"

    def __init__(self, folder: Path, *, retry_policy: RetryPolicy) -> None:
        self._store = LocalStore(prefix=folder, mkdir=True)
        self._retry_policy = retry_policy

    async def put(self, key: str, data: bytes, *, content_type: str) -> None:
        """Write the file; `content_type` is ignored, because a file cannot store it."""
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

    async def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        folder = checked_folder(prefix)
        stream = obstore.list(self._store, folder or None, chunk_size=_LIST_PAGE)
        while page := await self._call(f"listing of {folder or 'the folder'}", lambda: _next_page(stream)):
            for entry in page:
                yield entry

    async def _call(self, what: str, work: Callable[[], T]) -> T:
        async def attempt() -> T:
            with _file_errors():
                return await asyncio.to_thread(work)

        return await call(self._retry_policy, what, attempt)

    async def aclose(self) -> None:
        """Do nothing: there is no connection."""


class S3Store:
    """A bucket of any S3 server. Credentials that are not given come from the machine's role.

    Requests are httpx's, as for the other stores, with URLs that obstore signs; only listings are obstore's own. An
    object goes up in one request: a multipart upload leaves its parts behind when the process dies.
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
        retry_policy: RetryPolicy,
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
                "timeout": timedelta(seconds=retry_policy.attempt_timeout),
            },
            retry_config={"max_retries": 0},
        )
        self._retry_policy = retry_policy
        self._client = http_client(retry_policy)
        self._objects = HttpObjects(_S3, self._client)

    async def put(self, key: str, data: bytes, *, content_type: str) -> None:
        async def upload(url: str) -> None:
            try:
                await self._objects.put(url, data, content_type=content_type)
            except ObjectNotFoundError:
                raise StorageRefusedError("there is no such bucket; check STORAGE_URL") from None

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

    async def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        folder = checked_folder(prefix)
        last: str | None = None

        async def attempt() -> Sequence[StoredObject]:
            # S3 lists in order of the keys, so a page that failed is asked for again from the last key
            with _listing_errors():
                return await asyncio.to_thread(self._page, folder, last)

        while page := await call(self._retry_policy, f"listing of {folder or 'the bucket'}", attempt):
            for entry in page:
                yield entry
            if len(page) < _LIST_PAGE:
                return
            last = page[-1].key

    def _page(self, folder: str, after: str | None) -> Sequence[StoredObject]:
        return _next_page(obstore.list(self._store, folder or None, offset=after, chunk_size=_LIST_PAGE))

    async def _call(self, what: str, method: _Method, key: str, request: Callable[[str], Awaitable[T]]) -> T:
        """Call `request` with a URL that is signed again for each attempt."""
        key = checked_key(key)

        async def attempt() -> T:
            with _signing_errors():
                # in a thread, since a role's credentials are fetched over HTTP
                url = await asyncio.to_thread(obstore.sign, self._store, method, key, _SIGNATURE_LIFETIME)
            return await request(url)

        return await call(self._retry_policy, f"{what} of {key}", attempt)

    async def aclose(self) -> None:
        await self._client.aclose()


@contextmanager
def _file_errors() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ObjectNotFoundError from None
    except PermissionDeniedError:
        raise StorageRefusedError("permission denied; check who owns the folder of STORAGE_URL") from None
    except (BaseError, OSError, ValueError) as error:
        if _NO_SPACE.search(str(error)):
            raise StorageUnavailableError("the disk of STORAGE_URL is full; free some space") from None
        if _DISK_UNREACHABLE.search(str(error)):
            raise StorageUnavailableError(f"the folder of STORAGE_URL does not answer: {_first_line(error)}") from None
        raise StorageError(_first_line(error)) from None


@contextmanager
def _signing_errors() -> Iterator[None]:
    """Map obstore's exceptions to StorageError: its only request is the one for a role's credentials."""
    try:
        yield
    except GenericError:
        raise StorageUnavailableError("the machine's role gave no credentials; see the AWS_* variables") from None
    except (BaseError, OSError, ValueError) as error:
        raise StorageRefusedError(f"the S3 store cannot be used ({type(error).__name__}); check STORAGE_URL") from None


@contextmanager
def _listing_errors() -> Iterator[None]:
    """Map obstore's exceptions of a listing.

    obstore sends this request itself, since it signs URLs without a query only. It follows redirects, without the
    signature when the host changes.
    """
    try:
        yield
    except (PermissionDeniedError, UnauthenticatedError):
        raise StorageRefusedError(f"{_S3.name} refuses access; check {_S3.variables}") from None
    except (NotFoundError, FileNotFoundError):
        raise StorageRefusedError("there is no such bucket; check STORAGE_URL") from None
    except GenericError as error:
        raise _listing_failure(str(error)) from None
    except (BaseError, OSError, ValueError) as error:
        raise StorageError(f"{_S3.name} cannot be listed ({type(error).__name__}); check STORAGE_URL") from None


def _listing_failure(text: str) -> StorageError:
    """Return the error for obstore's text; only the status is taken from it, since the rest repeats the request."""
    status = re.search(r"status code: (\d{3})\b", text)
    return (
        _S3.status_error(int(status[1])) if status else StorageUnavailableError(f"{_S3.name} did not answer a listing")
    )


def _next_page(stream: ListStream[Sequence[ObjectMeta]]) -> Sequence[StoredObject]:
    """Return the next objects of a listing; none at its end."""
    return [
        StoredObject(key=meta["path"], size=meta["size"], modified=meta["last_modified"]) for meta in next(stream, ())
    ]


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
