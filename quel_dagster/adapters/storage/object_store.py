"""`file:` and `s3:` through obstore (Rust's object_store).

obstore's own retries are off, so that one rule and one deadline hold for every store. Objects go up in one request: a
multipart upload leaves its parts behind when the process dies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError, GenericError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore
from obstore.store import S3Store as ObstoreS3Store

from quel_dagster.adapters.storage.http import CONNECT_TIMEOUT, HttpObjects, Service, http_client
from quel_dagster.adapters.storage.patience import Patience
from quel_dagster.errors import ObjectNotFoundError, StorageError, StorageUnavailableError
from quel_dagster.jobs.references import checked_key

if TYPE_CHECKING:
    from obstore.store import S3Config

#: as long as S3 lets clocks differ
_SIGNATURE_LIFETIME = timedelta(minutes=15)

_NO_SPACE = re.compile(r"os error (28|122)\b")  # ENOSPC, EDQUOT
_STATUS = re.compile(r"status code: (\d{3})|\((\d{3}) [A-Z][A-Za-z ]+\)")
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

        async def attempt() -> None:
            with _file_errors():
                await obstore.put_async(self._store, key, data, use_multipart=False)

        await self._patience.call(f"upload of {key}", attempt)

    async def get(self, key: str, *, max_bytes: int) -> bytes:
        key = checked_key(key)

        async def attempt() -> bytes:
            with _file_errors():
                file = await obstore.get_async(self._store, key)
                if file.meta["size"] > max_bytes:
                    raise StorageError(f"the object is larger than the {max_bytes:,} bytes that are read")
                return bytes(await file.bytes_async())

        return await self._patience.call(f"download of {key}", attempt)

    async def size(self, key: str) -> int:
        key = checked_key(key)

        async def attempt() -> int:
            with _file_errors():
                return (await obstore.head_async(self._store, key))["size"]

        return await self._patience.call(f"size of {key}", attempt)

    async def delete(self, key: str) -> None:
        key = checked_key(key)

        async def attempt() -> None:
            with suppress(ObjectNotFoundError), _file_errors():
                await obstore.delete_async(self._store, key)

        await self._patience.call(f"removal of {key}", attempt)

    async def aclose(self) -> None:
        """There is nothing to close."""


class S3Store:
    """A bucket of anything that speaks S3. Credentials that are not given come from the machine's role.

    All but uploads go through URLs that obstore signs, since obstore itself follows redirects whatever it is told.
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
        key = checked_key(key)

        async def attempt() -> None:
            with _s3_errors():
                await obstore.put_async(
                    self._store, key, data, attributes={"Content-Type": content_type}, use_multipart=False
                )

        await self._patience.call(f"upload of {key}", attempt)

    async def get(self, key: str, *, max_bytes: int) -> bytes:
        key = checked_key(key)

        async def attempt() -> bytes:
            with _s3_errors():
                url = await obstore.sign_async(self._store, "GET", key, _SIGNATURE_LIFETIME)
            return await self._objects.get(url, max_bytes=max_bytes)

        return await self._patience.call(f"download of {key}", attempt)

    async def size(self, key: str) -> int:
        key = checked_key(key)

        async def attempt() -> int:
            with _s3_errors():
                url = await obstore.sign_async(self._store, "HEAD", key, _SIGNATURE_LIFETIME)
            return await self._objects.size(url)

        return await self._patience.call(f"size of {key}", attempt)

    async def delete(self, key: str) -> None:
        key = checked_key(key)

        async def attempt() -> None:
            with _s3_errors():
                url = await obstore.sign_async(self._store, "DELETE", key, _SIGNATURE_LIFETIME)
            with suppress(ObjectNotFoundError):
                await self._objects.delete(url)

        await self._patience.call(f"removal of {key}", attempt)

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
def _s3_errors() -> Iterator[None]:
    """obstore's exceptions as ours; it tells a status only in the text of its message."""
    try:
        yield
    except FileNotFoundError:
        raise StorageError("there is no such bucket; check STORAGE_URL") from None
    except (PermissionDeniedError, UnauthenticatedError):
        raise _S3.status_error(403) from None
    except GenericError as error:
        found = _STATUS.search(_first_line(error))
        if found is None:
            raise StorageUnavailableError("the S3 store did not answer (refused, cut or too slow)") from None
        raise _S3.status_error(int(found[1] or found[2])) from None
    except (BaseError, OSError, ValueError) as error:
        raise StorageError(f"the S3 store cannot be used ({type(error).__name__}); check STORAGE_URL") from None


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
