"""The two calls of the older worker's web server, for web apps that cannot reach Redis: push a job, cancel a job.

`POST /enqueue` or `/api/enqueue` with `{"job_id": …}`, and `POST /api/jobs/{job_id}/cancel`, as ASGI middleware before
everything else. The keys of the answers are those of the older worker (`modules/worker/enqueue_handler.go` and
`cancel_handler.go` of its source); docs/migration.md lists the differences.

Off by default (`QUEL_WEB_API`). Every call carries the token, which no browser adds by itself, so the guard against
other web pages does not apply: browsers on the origins of `QUEL_WEB_API_ORIGINS` may call from another site.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import anyio.to_thread
from redis import RedisError
from sqlalchemy.exc import DBAPIError
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from quel_dagster.adapters.database.jobs import JobReport
from quel_dagster.adapters.queue import QUEUE, JobQueue
from quel_dagster.errors import DatabaseRefusedError, RowShapeError, SettingsError
from quel_dagster.jobs.model import JobStatus
from quel_dagster.settings import Settings

#: bytes of an id and its braces; longer requests are refused unread
MAX_BODY_BYTES = 4_096
#: shorter tokens can be guessed
SHORTEST_TOKEN = 24
#: seconds for which a browser may cache the preflight answer
PREFLIGHT_SECONDS = 600
_ENQUEUE = ("/enqueue", "/api/enqueue")
_CANCEL = re.compile(r"/api/jobs/([^/]+)/cancel")
#: a cancel of such a job is answered with `"success": false`, as by the older worker
_CANNOT_BE_CANCELLED = (JobStatus.COMPLETED, JobStatus.USER_CANCELLED)
_CANCEL_SENT = "Cancel request sent. Job will stop after current image."
#: returns the rows of the ids that exist, as `quel status` reads them
ReadReports = Callable[[Sequence[UUID]], Awaitable[Mapping[UUID, JobReport]]]
_log = logging.getLogger(__name__)


class _RefusedError(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class WebApiAccess:
    """The access rules.

    Attributes:
        token: of the header `Authorization: Bearer …`.
        origins: their pages may call from a browser; `*` allows all.
    """

    token: str
    origins: frozenset[str] = frozenset()

    @classmethod
    def of(cls, settings: Settings) -> WebApiAccess | None:
        """Return the access rules of the settings; None while the API is off.

        Raises:
            SettingsError: it is on, but the token is missing or too short.
        """
        if not settings.web_api:
            return None
        token = settings.web_api_token.get_secret_value() if settings.web_api_token else ""
        if len(token) < SHORTEST_TOKEN:
            raise SettingsError(
                f"QUEL_WEB_API is on and QUEL_WEB_API_TOKEN has fewer than {SHORTEST_TOKEN} characters; "
                "set one such as `openssl rand -hex 24` prints."
            )
        return cls(token, frozenset(settings.web_api_origins.replace(",", " ").split()))

    def allows(self, origin: str) -> bool:
        return "*" in self.origins or origin in self.origins


class WebApi:
    """Answers the two calls; passes all other requests on.

    Args:
        report: reads the job of a cancel.
    """

    def __init__(self, app: ASGIApp, *, access: WebApiAccess, queue: JobQueue, report: ReadReports) -> None:
        self._app = app
        self._access = access
        self._queue = queue
        self._report = report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _is_ours(scope["path"]):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        answer = self._preflight() if request.method == "OPTIONS" else await self._answer(request)
        self._let_read(request.headers, answer)
        await answer(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        try:
            self._check(request)
            cancelled = _CANCEL.fullmatch(request.url.path)
            if cancelled is not None:
                return await self._cancel(_uuid(cancelled[1]))
            return await self._enqueue(_uuid(await _job_of_body(request)))
        except _RefusedError as refused:
            return _refusal(refused.status, str(refused))
        except RedisError as error:
            _log.warning("Redis did not accept a call of the web app (%s)", type(error).__name__)
            return _refusal(503, "Redis does not answer; try again")

    async def _enqueue(self, job_id: UUID) -> Response:
        position = await anyio.to_thread.run_sync(self._push, job_id)
        _log.info("Call of the web app: enqueued %s", job_id)
        return JSONResponse(
            {
                "success": True,
                "message": "Job enqueued successfully",
                "job_id": str(job_id),
                "queue": QUEUE,
                "queuePosition": position,
            }
        )

    def _push(self, job_id: UUID) -> int:
        self._queue.push(job_id)
        return self._queue.depths()["queue"]

    async def _cancel(self, job_id: UUID) -> Response:
        """Set the flag first: the answer may fail, the cancel must not."""
        await anyio.to_thread.run_sync(self._queue.cancel, job_id)
        _log.info("Call of the web app: cancel %s", job_id)
        try:
            job = (await self._report([job_id])).get(job_id)
        except (DBAPIError, DatabaseRefusedError, RowShapeError) as error:
            _log.warning("A cancel was set without reading its job (%s)", type(error).__name__)
            return JSONResponse({"success": True, "message": _CANCEL_SENT, "job_id": str(job_id)})
        if job is None:
            return _refusal(404, "Job not found")
        status, made = job.status, job.completed_images
        if status in _CANNOT_BE_CANCELLED:
            return JSONResponse(
                {
                    "success": False,
                    "message": f"Job already {status.value}",
                    "job_id": str(job_id),
                    "job_status": status.value,
                    "completed_images": made,
                }
            )
        return JSONResponse(
            {
                "success": True,
                "message": _CANCEL_SENT,
                "job_id": str(job_id),
                "current_status": status.value,
                "completed_images": made,
                "total_images": job.total_images,
            }
        )

    def _check(self, request: Request) -> None:
        if request.method != "POST":
            raise _RefusedError(405, "only POST is answered")
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self._access.token.encode()):
            raise _RefusedError(401, "the header Authorization: Bearer <QUEL_WEB_API_TOKEN> is missing or wrong")

    @staticmethod
    def _preflight() -> Response:
        return Response(
            status_code=204,
            headers={
                "Access-Control-Allow-Methods": "POST",
                "Access-Control-Allow-Headers": "authorization, content-type",
                "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
            },
        )

    def _let_read(self, headers: Headers, answer: Response) -> None:
        """Allow a page of an allowed origin to call and read the answer."""
        answer.headers["Vary"] = "Origin"
        origin = headers.get("origin")
        if origin is not None and self._access.allows(origin):
            answer.headers["Access-Control-Allow-Origin"] = origin


def _is_ours(path: str) -> bool:
    return path in _ENQUEUE or _CANCEL.fullmatch(path) is not None


async def _job_of_body(request: Request) -> str:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise _RefusedError(413, f"the body has more than {MAX_BODY_BYTES} bytes")
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        raise _RefusedError(400, 'the body is not JSON; send {"job_id": "<uuid>"}') from None
    job_id = given.get("job_id", given.get("jobId")) if isinstance(given, dict) else None
    if not isinstance(job_id, str):
        raise _RefusedError(400, 'job_id is missing; send {"job_id": "<uuid>"}')
    return job_id


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise _RefusedError(400, "job_id is not a UUID") from None


def _refusal(status: int, reason: str) -> JSONResponse:
    return JSONResponse({"success": False, "error": reason}, status)
