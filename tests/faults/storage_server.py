"""The object store under test: Supabase's HTTP API in a thread, which fails on demand."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Response

from tests.integration.storage.supabase_server import StoredObject, SupabaseServer, refusal


class ObjectsOnDisk(MutableMapping[str, StoredObject]):
    """`bucket/key` → object, as files: a long test makes more than memory should hold."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._types: dict[str, str] = {}

    def _path(self, name: str) -> Path:
        return self._folder / quote(name, safe="")

    def __getitem__(self, name: str) -> StoredObject:
        try:
            return StoredObject(self._path(name).read_bytes(), self._types[name])
        except OSError:
            raise KeyError(name) from None

    def __setitem__(self, name: str, stored: StoredObject) -> None:
        draft = self._folder / f".{threading.get_ident()}"
        draft.write_bytes(stored.data)
        self._types[name] = stored.content_type
        draft.replace(self._path(name))

    def __delitem__(self, name: str) -> None:
        self._path(name).unlink()

    def __iter__(self) -> Iterator[str]:
        return (unquote(path.name) for path in self._folder.iterdir() if not path.name.startswith("."))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class StorageServer(SupabaseServer):
    """Tell it `failing` to answer uploads so, for `times` of them; None: until the next call."""

    def __init__(self, folder: Path) -> None:
        super().__init__(objects=ObjectsOnDisk(folder))  # type: ignore[arg-type]
        self.uploads: list[str] = []
        #: last part of a key → where a download of it is sent instead
        self.redirects: dict[str, str] = {}
        self.failures = 0
        self.delay = 0.0
        self._failing: int | None = None
        self._left: int | None = None
        self._guard = threading.Lock()

    def fail(self, status: int, *, times: int | None = None) -> None:
        """Answer uploads with this HTTP status: 503 busy, 507 disk full, 400 refused …"""
        with self._guard:
            self._failing, self._left = status, times

    def heal(self) -> None:
        with self._guard:
            self._failing = None
            self.delay = 0.0
            self.redirects.clear()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        upload = environ["REQUEST_METHOD"] in {"POST", "PUT"}
        if upload:
            with self._guard:
                self.uploads.append(environ["PATH_INFO"])
                status = self._failing
                if status is not None and self._left is not None:
                    self._left -= 1
                    if self._left <= 0:
                        self._failing = None
            if self.delay:
                time.sleep(self.delay)
            if status is not None:
                self.failures += 1
                length = int(environ.get("CONTENT_LENGTH") or 0)
                environ["wsgi.input"].read(length)
                answer = refusal(400, "Bad", "Bad") if status == 400 else Response("no", status=status)
                return answer(environ, start_response)
        elif elsewhere := self.redirects.get(environ["PATH_INFO"].rpartition("/")[2]):
            return Response(status=302, headers={"Location": elsewhere})(environ, start_response)
        return super().__call__(environ, start_response)


class _Quiet(WSGIRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


@contextmanager
def running_storage(folder: Path) -> Iterator[StorageServer]:
    storage = StorageServer(folder)
    server = make_server("127.0.0.1", 0, storage, threaded=True, request_handler=_Quiet)
    storage.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True, name="storage")
    thread.start()
    try:
        yield storage
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
