"""The two calls that the web app made of the older worker's web server, over HTTP, before the guard against pages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import redis
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.errors import SettingsError
from quel_dagster.platform.web_api import MAX_BODY_BYTES, ReadReports, WebApi, WebApiAccess
from quel_dagster.platform.web_guard import LOOPBACK_NAMES, OwnAddresses, WebGuard
from quel_dagster.services.endpoints import Endpoints
from quel_dagster.settings import Settings
from tests.integration.conftest import Look, Office

TOKEN = "canary-token-of-the-web-app-0123"
WEB_APP = "https://app.quel.example"
LOGIN = {"authorization": f"Bearer {TOKEN}"}


def _settings(**more: Any) -> Settings:
    return Settings.read(_env_file=None, web_api=True, web_api_token=TOKEN, web_api_origins=WEB_APP, **more)


async def _no_job(_job_ids: Sequence[UUID]) -> Mapping[UUID, Mapping[str, Any]]:
    return {}


async def _ui(_request: Any) -> PlainTextResponse:
    return PlainTextResponse("the UI")


@pytest.fixture
async def web_app(redis_url: str, endpoints: Endpoints) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the whole server, under a name that the guard does not know."""
    database = Database(endpoints.database_url, retry_seconds=1)
    async with _client(redis_url, database.jobs.report) as client:
        yield client
    await database.aclose()


@asynccontextmanager
async def _client(redis_url: str, report: ReadReports) -> AsyncIterator[httpx.AsyncClient]:
    access = WebApiAccess.of(_settings())
    assert access is not None
    queue = JobQueue(redis_url)
    server = Starlette(
        routes=[Route("/{path:path}", _ui, methods=["GET", "POST"])],
        middleware=[
            Middleware(WebApi, access=access, queue=queue, report=report),
            Middleware(WebGuard, own=OwnAddresses(hosts=LOOPBACK_NAMES)),
        ],
    )
    transport = httpx.ASGITransport(app=server)
    async with httpx.AsyncClient(transport=transport, base_url="http://quel.internal") as client:
        yield client
    queue.close()


@pytest.fixture
def server(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url)


@pytest.mark.parametrize("path", ["/enqueue", "/api/enqueue"])
async def test_enqueue_pushes_the_id_as_the_web_app_does(
    web_app: httpx.AsyncClient, server: redis.Redis, path: str
) -> None:
    """Paths and keys are those of the older worker (modules/worker/enqueue_handler.go of its source)."""
    first, second = str(uuid4()), str(uuid4())
    for position, job_id in enumerate((first, second), start=1):
        answer = await web_app.post(path, json={"job_id": job_id}, headers=LOGIN)
        assert (answer.status_code, answer.json()) == (
            200,
            {
                "success": True,
                "message": "Job enqueued successfully",
                "job_id": job_id,
                "queue": "jobs:queue",
                "queuePosition": position,
            },
        )
    assert server.lrange("jobs:queue", 0, -1) == [second.encode(), first.encode()], "LPUSH: the newest is on the left"


async def test_cancel_of_an_open_job_sets_the_flag_for_an_hour_and_tells_its_state(
    web_app: httpx.AsyncClient, server: redis.Redis, office: Office
) -> None:
    """The keys are those of the older worker (modules/worker/cancel_handler.go of its source)."""
    job_id = (await office.job(3)).job_id
    answer = await web_app.post(f"/api/jobs/{job_id}/cancel", headers=LOGIN)
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "success": True,
            "message": "Cancel request sent. Job will stop after current image.",
            "job_id": str(job_id),
            "current_status": "pending",
            "completed_images": 0,
            "total_images": 3,
        },
    )
    assert server.get(f"job:{job_id}:cancelled") == b"true"
    assert 3500 < server.ttl(f"job:{job_id}:cancelled") <= 3600  # type: ignore[operator]


@pytest.mark.parametrize("status", ["completed", "user_cancelled"])
async def test_cancel_of_a_job_that_ended_is_not_a_success(
    web_app: httpx.AsyncClient, office: Office, sql: Look, status: str
) -> None:
    job_id = (await office.job(1)).job_id
    await sql.all("update quel_production_jobs set job_status = %s where job_id = %s", status, job_id)
    answer = await web_app.post(f"/api/jobs/{job_id}/cancel", headers=LOGIN)
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "success": False,
            "message": f"Job already {status}",
            "job_id": str(job_id),
            "job_status": status,
            "completed_images": 0,
        },
    )


async def test_cancel_of_an_unknown_job_is_404(web_app: httpx.AsyncClient) -> None:
    answer = await web_app.post(f"/api/jobs/{uuid4()}/cancel", headers=LOGIN)
    assert (answer.status_code, answer.json()["error"]) == (404, "Job not found")


async def test_cancel_without_postgresql_sets_the_flag(redis_url: str, server: redis.Redis) -> None:
    job_id = uuid4()
    unreachable = Database("postgresql://u@127.0.0.1:9/d", retry_seconds=0.1)
    async with _client(redis_url, unreachable.jobs.report) as web_app:
        answer = await web_app.post(f"/api/jobs/{job_id}/cancel", headers=LOGIN)
    assert (answer.status_code, answer.json()["success"]) == (200, True)
    assert server.get(f"job:{job_id}:cancelled") == b"true"


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN])
async def test_without_the_token_nothing_happens(web_app: httpx.AsyncClient, server: redis.Redis, header: str) -> None:
    headers = {"authorization": header} if header else {}
    pushed = await web_app.post("/enqueue", json={"job_id": str(uuid4())}, headers=headers)
    cancelled = await web_app.post(f"/api/jobs/{uuid4()}/cancel", headers=headers)
    assert (pushed.status_code, cancelled.status_code) == (401, 401)
    assert TOKEN not in pushed.text
    assert server.keys("*") == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"[" * 4000, 400),
        (b'{"job_id": 7}', 400),
        (b'{"job_id": "no uuid"}', 400),
        (b'{"job_id": "' + b"x" * MAX_BODY_BYTES + b'"}', 413),
    ],
)
async def test_what_is_no_job_id_is_refused(
    web_app: httpx.AsyncClient, server: redis.Redis, body: bytes, status: int
) -> None:
    answer = await web_app.post("/enqueue", content=body, headers=LOGIN)
    assert (answer.status_code, answer.json()["success"]) == (status, False)
    assert (await web_app.post("/api/jobs/no-uuid/cancel", headers=LOGIN)).status_code == 400
    assert (await web_app.get("/enqueue", headers=LOGIN)).status_code == 405
    assert server.keys("*") == []


async def test_pages_of_the_named_origin_may_call_and_others_may_not(web_app: httpx.AsyncClient) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    allowed = await web_app.options("/enqueue", headers={"origin": WEB_APP, **asked})
    assert allowed.headers["access-control-allow-origin"] == WEB_APP
    assert "authorization" in allowed.headers["access-control-allow-headers"]
    refused = await web_app.options("/enqueue", headers={"origin": "https://evil.example", **asked})
    assert "access-control-allow-origin" not in refused.headers
    answer = await web_app.post("/enqueue", json={"job_id": str(uuid4())}, headers={"origin": WEB_APP, **LOGIN})
    assert answer.headers["access-control-allow-origin"] == WEB_APP


async def test_every_other_path_stays_behind_the_guard(web_app: httpx.AsyncClient) -> None:
    assert (await web_app.get("/runs", headers=LOGIN)).status_code == 421
    assert (await web_app.post("/api/jobs/x/cancel/more", headers=LOGIN)).status_code == 421


async def test_unreachable_redis_is_503() -> None:
    access = WebApiAccess.of(_settings())
    assert access is not None
    server = WebApi(_ui, access=access, queue=JobQueue("redis://127.0.0.1:9/0"), report=_no_job)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=server), base_url="http://x") as client:
        assert (await client.post(f"/api/jobs/{uuid4()}/cancel", headers=LOGIN)).status_code == 503


def test_it_is_off_by_default_and_wants_a_token_that_cannot_be_guessed() -> None:
    assert WebApiAccess.of(Settings.read(_env_file=None, web_api_token=TOKEN)) is None
    for token in (None, "short"):
        with pytest.raises(SettingsError, match="QUEL_WEB_API_TOKEN has fewer than 24 characters"):
            WebApiAccess.of(Settings.read(_env_file=None, web_api=True, web_api_token=token))
