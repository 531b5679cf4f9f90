"""No adapter tells a secret in its errors, tracebacks or log lines, not even of a server that repeats all it was sent.

A server of HTTP answers every request with its own method, URL, headers and body, one of PostgreSQL repeats how a
client begins. Nothing listens on a third port. With and without TLS.
"""

from __future__ import annotations

import io
import logging
import socket
import struct
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any

import pytest
from pydantic import SecretStr

from quel_dagster import redaction
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.gemini.access import ApiKey
from quel_dagster.adapters.gemini.client import GeminiClient
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.adapters.retry_policy import OBJECT_STORE
from quel_dagster.adapters.storage.store import open_store
from quel_dagster.jobs.models import DEFAULT_MODEL, model_of
from quel_dagster.pipeline.alerts import send
from quel_dagster.redaction import _written
from quel_dagster.settings import Settings

CANARIES = {
    "DATABASE_URL": "postgres/canary+p@ss 71c0",
    "DATABASE_URL sslpassword": "ssl-canary-of-the-key-8d",
    "REDIS_PASSWORD": "redis-canary p@ss/93a1",
    "GEMINI_API_KEY": "gemini-canary-key-5be2",
    "SUPABASE_SERVICE_KEY": "supabase.canary.eyJhb-44aa",
    "AWS_ACCESS_KEY_ID": "AKIAAWSCANARY1B90",
    "AWS_SECRET_ACCESS_KEY": "aws/secret+canary-8e22",
    "AWS_SESSION_TOKEN": "aws-session-canary/64fd==",
    "QUEL_WEB_API_TOKEN": "web-api-canary-of-24-or-more-characters",
    "webhook path": "T0CANARY/B0CANARY/2f7c9d",
    "webhook query": "webhook-query-canary-19",
    "webhook password": "webhook-password-canary",
}


#: PostgreSQL's protocol: what a client asks before it starts
POSTGRES_SSL, POSTGRES_GSS = struct.pack("!i", 80877103), struct.pack("!i", 80877104)


class Echo(BaseHTTPRequestHandler):
    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = f"{self.command} {self.path}\n{self.headers}\n".encode() + self.rfile.read(min(length, 10_000))
        self.send_response(self.server.status, body[:200].decode("latin-1").replace("\n", " ").replace("\r", " "))  # type: ignore[attr-defined]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _answer  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


class Repeater(BaseRequestHandler):
    """A PostgreSQL that refuses every client with an error that repeats what the client sent."""

    def handle(self) -> None:
        while data := self.request.recv(10_000):
            if data[4:8] in {POSTGRES_SSL, POSTGRES_GSS}:
                self.request.sendall(b"N")
                continue
            error = b"SFATAL\0C28000\0M" + data.replace(b"\0", b" ") + b"\0\0"
            self.request.sendall(b"E" + struct.pack("!i", len(error) + 4) + error)
            return


@pytest.fixture(scope="module")
def repeater() -> Iterator[ThreadingTCPServer]:
    with ThreadingTCPServer(("127.0.0.1", 0), Repeater) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def port(request: pytest.FixtureRequest, server: ThreadingHTTPServer, repeater: ThreadingTCPServer) -> int:
    """The port of a server, by the status of its answers, or a closed one."""
    if request.param == "closed":
        with socket.create_server(("127.0.0.1", 0)) as taken:
            return int(taken.getsockname()[1])
    if request.param == "repeats":
        return int(repeater.server_address[1])
    server.status = request.param  # type: ignore[attr-defined]
    return server.server_port


@pytest.fixture
def settings(port: int) -> Settings:
    here = f"http://127.0.0.1:{port}"
    password, ssl = (redaction.quote(CANARIES[name], safe="") for name in ("DATABASE_URL", "DATABASE_URL sslpassword"))
    return Settings.read(
        _env_file=None,
        database_url=f"postgresql://quel:{password}@127.0.0.1:{port}/d?sslpassword={ssl}&connect_timeout=2",
        redis_host="127.0.0.1",
        redis_port=port,
        redis_username="quel",
        redis_password=CANARIES["REDIS_PASSWORD"],
        gemini_api_key=CANARIES["GEMINI_API_KEY"],
        supabase_url=here,
        supabase_service_key=CANARIES["SUPABASE_SERVICE_KEY"],
        storage_base_url=f"{here}/public/",
        aws_access_key_id=CANARIES["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CANARIES["AWS_SECRET_ACCESS_KEY"],
        aws_session_token=CANARIES["AWS_SESSION_TOKEN"],
        web_api_token=CANARIES["QUEL_WEB_API_TOKEN"],
        alert_webhook_url=f"http://hook:{CANARIES['webhook password']}@127.0.0.1:{port}/services/"
        f"{CANARIES['webhook path']}?token={CANARIES['webhook query']}",
    )


@pytest.fixture
def log() -> Iterator[Callable[[], str]]:
    """All log lines of the test, at every level, as this project's processes log them."""
    redaction.install()
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    root, before = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield out.getvalue
    root.removeHandler(handler)
    root.setLevel(before)


def _assert_no_secret(error: BaseException, log: Callable[[], str]) -> None:
    logging.getLogger("test").exception("It failed: %s %r", error, error, exc_info=error)
    trace = redaction.redact("".join(traceback.format_exception(error)))  # at the door of a process
    printed = {"its message": str(error), "its traceback": trace, "the log": log()}
    for place, text in printed.items():
        for name, secret in CANARIES.items():
            for written in _written(secret):
                assert written.lower() not in text.lower(), f"{name} is printed in {place}"


async def _database(settings: Settings, more: str = "") -> None:
    assert settings.database_url is not None
    database = Database(settings.database_url.get_secret_value() + more, retry_seconds=0)
    try:
        await database.installation.ensure_schema()
    finally:
        await database.aclose()


async def _database_over_tls(settings: Settings) -> None:
    await _database(settings, "&sslmode=verify-full&sslrootcert=system")


async def _redis(settings: Settings) -> None:
    url = settings.redis()
    assert url is not None
    queue = JobQueue(url)
    try:
        queue.push("x")
    finally:
        queue.close()


async def _redis_over_tls(settings: Settings) -> None:
    await _redis(settings.model_copy(update={"redis_use_tls": True}))


async def _gemini(settings: Settings) -> None:
    assert settings.gemini_api_key is not None
    client = GeminiClient(
        access=ApiKey(settings.gemini_api_key.get_secret_value()),
        base_url=settings.supabase_url,
        models=[model_of(DEFAULT_MODEL)],
        timeout_seconds=10,
        attempts=2,
        backoff_seconds=0.001,
    )

    async def accept(data: bytes) -> bytes:
        return data

    try:
        await client.generate(text="x", parts=[], aspect_ratio="1:1", accept=accept)
    finally:
        await client.aclose()


async def _store(settings: Settings, url: str) -> None:
    store = open_store(
        settings.model_copy(update={"storage_url": SecretStr(url)}),
        retry_policy=replace(OBJECT_STORE, attempts=2, first_pause=0.001),
    )
    try:
        await store.put("generated-images/x.webp", b"x", content_type="image/webp")
    finally:
        await store.aclose()


async def _s3(settings: Settings) -> None:
    await _store(settings, f"s3://bucket?endpoint={settings.supabase_url}&region=us-east-1")


async def _supabase(settings: Settings) -> None:
    await _store(settings, "supabase:")


async def _webhook(settings: Settings) -> None:
    assert settings.alert_webhook_url is not None
    send(settings.alert_webhook_url.get_secret_value(), {"text": "x"})


CASES = [
    *product([400, 403, 500, "closed"], [_gemini, _s3, _supabase, _webhook]),
    *product([400, "closed"], [_redis, _redis_over_tls]),
    *product(["repeats", "closed"], [_database, _database_over_tls]),
]


@pytest.mark.parametrize(("port", "call"), CASES, indirect=["port"])
async def test_an_error_tells_no_secret(
    call: Callable[[Settings], Any], settings: Settings, log: Callable[[], str]
) -> None:
    with pytest.raises(Exception) as caught:
        await call(settings)
    _assert_no_secret(caught.value, log)


def test_every_secret_setting_has_a_canary() -> None:
    """A new secret setting needs its canary here, or this fails."""
    secret = {
        field.alias
        for field in Settings.model_fields.values()
        if SecretStr in getattr(field.annotation, "__args__", ())
    }
    covered = {*CANARIES, "DAGSTER_DATABASE_URL", "REDIS_URL", "STORAGE_URL", "QUEL_ALERT_WEBHOOK_URL"}
    assert secret <= covered
