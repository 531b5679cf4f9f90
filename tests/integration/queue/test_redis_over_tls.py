"""`rediss://`: a server gets the password only with a certificate for its host, signed by a trusted authority."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import pytest
import redis
import trustme
from celery import Celery
from kombu.exceptions import OperationalError

from quel_dagster.adapters.cancel_flags import CancelFlags
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.adapters.redis_connection import celery_url


class TlsServer:
    """TLS in front of a real Redis, in a thread."""

    def __init__(self, upstream_port: int, certificate: trustme.LeafCert) -> None:
        self._upstream_port = upstream_port
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(self._context)
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="TLS")
        self.port = 0
        #: bytes of the clients that came through
        self.received = 0

    def __enter__(self) -> TlsServer:
        self._thread.start()
        assert self._listening.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(lambda _loop, _context: None)  # handshakes that clients break off
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context))
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)

        async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter, *, count: bool) -> None:
            while data := await source.read(65_536):
                self.received += len(data) if count else 0
                target.write(data)
                await target.drain()

        pumps = [
            asyncio.ensure_future(carry(reader, upstream_writer, count=True)),
            asyncio.ensure_future(carry(upstream_reader, writer, count=False)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for each in (writer, upstream_writer):
                each.transport.abort()


@dataclass(frozen=True)
class Way:
    """One client of this project: `knock` reaches Redis with a URL, or raises."""

    name: str
    knock: Callable[[str], Any]


def _knock_as_sensor(url: str) -> None:
    with closing(JobQueue(url)) as queue:
        queue.push(uuid4())
        assert queue.depths()["queue"] == 1


def _knock_as_worker(url: str) -> None:
    async def ask() -> None:
        flags = CancelFlags(url)
        try:
            assert not await flags.cancelled_by(uuid4())
        finally:
            await flags.aclose()

    asyncio.run(ask())


def _knock_as_broker(url: str) -> None:
    with Celery(broker=celery_url(url), set_as_current=False) as app, app.connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=5)


def _knock_as_result_backend(url: str) -> None:
    with Celery(backend=celery_url(url), set_as_current=False) as app:
        client = app.backend.client
        try:
            assert client.ping()
        finally:
            client.connection_pool.disconnect()


WAYS = [
    Way("the queue", _knock_as_sensor),
    Way("the cancel flags", _knock_as_worker),
    Way("Celery's broker", _knock_as_broker),
    Way("Celery's result backend", _knock_as_result_backend),
]
REFUSED = (redis.ConnectionError, OperationalError)  # redis-py's, and kombu's
ways = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path) -> str:
    """The query of a URL that trusts our authority."""
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    return f"?ssl_ca_certs={quote(str(path))}"


@contextmanager
def _tls(redis_url: str, certificate: trustme.LeafCert) -> Iterator[tuple[TlsServer, str]]:
    parts = urlsplit(redis_url)
    with TlsServer(parts.port or 0, certificate) as server:
        yield server, f"rediss://:{parts.password}@localhost:{server.port}/0"


@ways
def test_a_certificate_of_a_trusted_authority_for_this_host(
    redis_url: str, authority: trustme.CA, trusted: str, way: Way
) -> None:
    with _tls(redis_url, authority.issue_cert("localhost")) as (server, url):
        way.knock(url + trusted)
        assert server.received > 0


@ways
def test_certificate_of_an_unknown_authority_is_refused(redis_url: str, way: Way) -> None:
    with _tls(redis_url, trustme.CA().issue_cert("localhost")) as (server, url):
        with pytest.raises(REFUSED, match="CERTIFICATE_VERIFY_FAILED"):
            way.knock(url)
        assert server.received == 0, "bytes were sent to an untrusted server"


@ways
def test_a_certificate_for_another_host(redis_url: str, authority: trustme.CA, trusted: str, way: Way) -> None:
    with _tls(redis_url, authority.issue_cert("elsewhere.example")) as (server, url):
        with pytest.raises(REFUSED, match="Hostname mismatch"):
            way.knock(url + trusted)
        assert server.received == 0
