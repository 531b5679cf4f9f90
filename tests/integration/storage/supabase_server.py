"""A server that speaks the part of Supabase Storage's HTTP API that the store uses, over real HTTP.

As documented: `POST|PUT /storage/v1/object/{bucket}/{key}` (form with a file, `x-upsert`, key in `authorization`),
`GET /storage/v1/object/info/{bucket}/{key}`, `GET /storage/v1/object/public/{bucket}/{key}`, `DELETE
/storage/v1/object/{bucket}` (`{"prefixes": [key, …]}`; what is not there is left out of the answer), `POST
/storage/v1/object/list/{bucket}` (`prefix`, `limit`, `offset`; one level, folders without an id). Errors come the way
the service sends them: HTTP 400 with the real status in the body.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from werkzeug.exceptions import ClientDisconnected
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

SERVICE_KEY = "service-key-canary-5d1c"


@dataclass
class StoredObject:
    data: bytes
    content_type: str
    modified: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass
class SupabaseServer:
    port: int = 0
    buckets: set[str] = field(default_factory=lambda: {"attachments"})
    #: `bucket/key` → object
    objects: dict[str, StoredObject] = field(default_factory=dict)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with Request(environ) as request:
            try:
                answer = self._answer(request)
            except ClientDisconnected as gone:  # the caller was killed or cut off
                answer = Response(status=gone.code)
            return answer(environ, start_response)

    def _answer(self, request: Request) -> Response:
        path = request.path.removeprefix("/storage/v1/object/")
        if request.method == "GET" and path.startswith("public/"):
            return self._public(path.removeprefix("public/"))
        if request.headers.get("authorization") != f"Bearer {SERVICE_KEY}":
            return refusal(403, "Unauthorized", "Invalid Compact JWS")
        if request.method == "GET" and path.startswith("info/"):
            return self._info(path.removeprefix("info/"))
        if request.method == "POST" and path.startswith("list/"):
            return self._list(path.removeprefix("list/"), request)
        if request.method in {"POST", "PUT"}:
            return self._upload(path, request)
        if request.method == "DELETE":
            return self._remove(path, request)
        return refusal(404, "not_found", "Route not found")

    def _public(self, name: str) -> Response:
        found = self.objects.get(name)
        return Response(found.data, content_type=found.content_type) if found else missing()

    def _info(self, name: str) -> Response:
        found = self.objects.get(name)
        if found is None:
            return missing()
        body = {"name": name.partition("/")[2], "size": len(found.data), "content_type": found.content_type}
        return Response(json.dumps(body), content_type="application/json")

    def _upload(self, name: str, request: Request) -> Response:
        if name.partition("/")[0] not in self.buckets:
            return refusal(404, "Bucket not found", "Bucket not found")
        if request.method == "POST" and name in self.objects and request.headers.get("x-upsert") != "true":
            return refusal(409, "Duplicate", "The resource already exists")
        file = request.files["file"]
        self.objects[name] = StoredObject(file.read(), file.content_type)
        return Response(json.dumps({"Id": "1", "Key": name}), content_type="application/json")

    def _list(self, bucket: str, request: Request) -> Response:
        asked = json.loads(request.data)
        folder = f"{bucket}/{asked['prefix']}".rstrip("/") + "/"
        entries: dict[str, dict[str, Any]] = {}
        for key, found in self.objects.items():
            if key.startswith(folder):
                name, _, below = key.removeprefix(folder).partition("/")
                entries[name] = _folder_entry(name) if below else _object_entry(name, found)
        page = sorted(entries.values(), key=lambda entry: str(entry["name"]))
        page = page[asked["offset"] : asked["offset"] + asked["limit"]]
        return Response(json.dumps(page), content_type="application/json")

    def _remove(self, bucket: str, request: Request) -> Response:
        if bucket not in self.buckets:
            return refusal(404, "Bucket not found", "Bucket not found")
        names = [key for key in json.loads(request.data)["prefixes"] if self.objects.pop(f"{bucket}/{key}", None)]
        body = [{"name": name, "bucket_id": bucket} for name in names]
        return Response(json.dumps(body), content_type="application/json")


def _object_entry(name: str, found: StoredObject) -> dict[str, Any]:
    return {
        "name": name,
        "id": str(uuid.uuid4()),
        "updated_at": found.modified.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "metadata": {"size": len(found.data), "mimetype": found.content_type},
    }


def _folder_entry(name: str) -> dict[str, Any]:
    return {"name": name, "id": None, "updated_at": None, "metadata": None}


def refusal(status: int, error: str, message: str) -> Response:
    body = {"statusCode": str(status), "error": error, "message": message}
    return Response(json.dumps(body), status=400, content_type="application/json")


def missing() -> Response:
    return refusal(404, "not_found", "Object not found")


@contextmanager
def running_supabase(supabase: SupabaseServer | None = None) -> Iterator[SupabaseServer]:
    supabase = supabase or SupabaseServer()
    server = make_server("127.0.0.1", 0, supabase, threaded=True)
    supabase.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield supabase
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
