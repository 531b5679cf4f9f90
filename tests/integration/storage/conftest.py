"""The three kinds of store, each on a real back end of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from quel_dagster.adapters.retry_policy import RetryPolicy
from quel_dagster.adapters.storage.store import ObjectStore, open_store
from quel_dagster.settings import Settings
from tests.integration.storage.faulty_proxy import FaultyProxy, faulty_proxy
from tests.integration.storage.supabase_server import SERVICE_KEY, SupabaseServer, running_supabase

BUCKET = "pictures"
ACCESS_KEY, SECRET_KEY = "AKIACANARY77", "secret-canary-9e2f"

HURRIED = RetryPolicy(attempts=3, first_pause=0.01, longest_pause=0.02, attempt_timeout=5, total_timeout=20)


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields.values():
        monkeypatch.delenv(str(name.alias), raising=False)
    monkeypatch.chdir(tmp_path)  # no .env


@pytest.fixture(scope="session")
def moto_port() -> Iterator[int]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    ).create_bucket(Bucket=BUCKET)
    yield port
    server.stop()


@pytest.fixture(scope="session")
def supabase() -> Iterator[SupabaseServer]:
    with running_supabase() as server:
        yield server


def s3_settings(port: int, query: str = "") -> Settings:
    return Settings.read(
        storage_url=f"s3://{BUCKET}/some/prefix?endpoint=http://127.0.0.1:{port}&region=us-east-1{query}",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )


def supabase_settings(port: int, key: str = SERVICE_KEY) -> Settings:
    return Settings.read(
        supabase_url=f"http://127.0.0.1:{port}",
        supabase_service_key=key,
        storage_base_url=f"http://127.0.0.1:{port}/storage/v1/object/public/attachments/",
    )


@pytest.fixture(params=["file", "s3", "supabase"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    match request.param:
        case "file":
            settings = Settings.read(storage_url=f"file://{tmp_path}/objects")
        case "s3":
            settings = s3_settings(request.getfixturevalue("moto_port"))
        case _:
            settings = supabase_settings(request.getfixturevalue("supabase").port)
    opened = open_store(settings, retry_policy=HURRIED)
    yield opened
    await opened.aclose()


@dataclass
class Remote:
    """A kind of store behind an HTTP proxy that fails on demand."""

    kind: str
    proxy: FaultyProxy
    settings: Settings
    _opened: list[ObjectStore] = field(default_factory=list)

    def open(self, retry_policy: RetryPolicy = HURRIED) -> ObjectStore:
        self._opened.append(open_store(self.settings, retry_policy=retry_policy))
        return self._opened[-1]

    async def aclose(self) -> None:
        for store in self._opened:
            await store.aclose()


@pytest.fixture(params=["s3", "supabase"])
async def remote(request: pytest.FixtureRequest) -> AsyncIterator[Remote]:
    if request.param == "s3":
        port, settings = request.getfixturevalue("moto_port"), s3_settings
    else:
        port, settings = request.getfixturevalue("supabase").port, supabase_settings
    async with faulty_proxy(port) as proxy:
        remote = Remote(request.param, proxy, settings(proxy.port))
        yield remote
        await remote.aclose()
