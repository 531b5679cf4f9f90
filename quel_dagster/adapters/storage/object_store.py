"""`file:` and `s3:` through obstore (Rust's object_store)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import (
    BaseError,
    GenericError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import LocalStore
from obstore.store import S3Store as ObstoreS3Store

from quel_dagster.adapters.storage.patience import Patience
from quel_dagster.errors import (
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
)
from quel_dagster.jobs.references import checked_key

if TYPE_CHECKING:
    from obstore.store import S3Config

_CONNECT_TIMEOUT = timedelta(seconds=5)
_STATUS = re.compile(r"status code: (\d{3})|\((\d{3}) [A-Z][A-Za-z ]+\)")
_NO_SPACE = re.compile(r"os error (28|122)\b")  # ENOSPC, EDQUOT
_TRANSIENT_STATUS = frozenset({408, 425, 429})


class _ObstoreStore:
    """What both have in common; obstore's own retries are off, so that one rule and one deadline hold everywhere."""

    backend: str

    def __init__(self, store: LocalStore | ObstoreS3Store, *, patience: Patience) -> None:
        self._store = store
        self._patience = patience

    async def put(self, key: str, data: bytes, *, content_type: str) -> None:
        key = checked_key(key)
        attributes = self._attributes(content_type)

        async def attempt() -> None:
            with self._named_errors():
                try:
                    # one request: a multipart upload leaves parts behind when its process dies
                    await obstore.put_async(self._store, key, data, attributes=attributes, use_multipart=False)
                except FileNotFoundError:
                    raise StorageError("there is no such bucket or folder; see STORAGE_URL") from None

        await self._patience.call(f"upload of {key}", attempt)

    async def get(self, key: str, *, max_bytes: int) -> bytes:
        key = checked_key(key)

        async def attempt() -> bytes:
            with self._named_errors():
                answer = await obstore.get_async(self._store, key)
                size = answer.meta["size"]
                if size > max_bytes:
                    raise StorageError(f"the object has {size:,} bytes; at most {max_bytes:,} are read")
                return bytes(await answer.bytes_async())

        return await self._patience.call(f"download of {key}", attempt)

    async def size(self, key: str) -> int:
        key = checked_key(key)

        async def attempt() -> int:
            with self._named_errors():
                return (await obstore.head_async(self._store, key))["size"]

        return await self._patience.call(f"size of {key}", attempt)

    async def aclose(self) -> None:
        """Nothing to do: obstore's connections belong to its own runtime."""

    def _attributes(self, content_type: str) -> dict[str, str] | None:
        raise NotImplementedError

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        raise NotImplementedError


class FileStore(_ObstoreStore):
    """A folder. obstore writes beside the target and renames, so an object is there whole or not at all."""

    backend = "file"

    def __init__(self, folder: Path, *, patience: Patience) -> None:
        super().__init__(LocalStore(prefix=folder, mkdir=True), patience=patience)

    def _attributes(self, content_type: str) -> None:
        """A file has no place for a content type."""

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
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


class S3Store(_ObstoreStore):
    """A bucket of anything that speaks S3. Credentials that are not given come from the machine's role."""

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
        given: dict[str, str | None] = {
            "endpoint": endpoint,
            "region": region,
            "access_key_id": access_key_id,
            "secret_access_key": secret_access_key,
            "session_token": session_token,
        }
        config: S3Config = {name: value for name, value in given.items() if value is not None}  # type: ignore[assignment]
        store = ObstoreS3Store(
            bucket,
            prefix=prefix or None,
            config=config,
            client_options={
                "allow_http": bool(endpoint and endpoint.startswith("http://")),
                "connect_timeout": _CONNECT_TIMEOUT,
                "timeout": timedelta(seconds=patience.attempt_timeout),
            },
            retry_config={"max_retries": 0},
        )
        super().__init__(store, patience=patience)

    def _attributes(self, content_type: str) -> dict[str, str]:
        return {"Content-Type": content_type}

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        # A server's own words may repeat an access key or a signature: only its status goes into the message.
        try:
            yield
        except FileNotFoundError:
            raise ObjectNotFoundError from None
        except (PermissionDeniedError, UnauthenticatedError):
            raise StorageError(
                "the store refuses these credentials; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY "
                "and the bucket's policy"
            ) from None
        except GenericError as error:
            raise _s3_error(_first_line(error)) from None
        except (BaseError, OSError, ValueError) as error:
            raise StorageError(f"the store failed ({type(error).__name__})") from None


def _s3_error(message: str) -> StorageError:
    found = _STATUS.search(message)
    if found is None:
        return StorageUnavailableError("the store did not answer (connection refused, cut or too slow)")
    status = int(found[1] or found[2])
    if status >= 500 or status in _TRANSIENT_STATUS:
        return StorageUnavailableError(f"the store answered HTTP {status}")
    return StorageError(f"the store answered HTTP {status}; check STORAGE_URL and the AWS_* variables")


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
