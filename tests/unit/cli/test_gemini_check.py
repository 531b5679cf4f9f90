"""Every answer that a host may give to the doctor's question has a meaning."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from quel_dagster.cli.doctor import gemini, gemini_models
from quel_dagster.cli.doctor.finding import Result
from quel_dagster.jobs.model_choice import ModelChoice
from quel_dagster.jobs.models import DEFAULT_MODEL, model_of
from quel_dagster.sandbox import gemini_requests, gemini_server
from quel_dagster.sandbox.gemini_requests import TEXT_MODELS
from quel_dagster.sandbox.gemini_server import GeminiStandIn
from quel_dagster.settings import Settings
from tests.service_account import service_account

KEY = "canary-key"


class Host(ThreadingHTTPServer):
    status = 200
    body: bytes = b""
    asked: ClassVar[list[tuple[str, str | None]]] = []


class Handler(BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("x-goog-api-key")))
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def host() -> Iterator[Host]:
    with Host(("127.0.0.1", 0), Handler) as server:
        server.asked.clear()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def settings(host: Host, **changes: Any) -> Settings:
    values = {"gemini_base_url": f"http://127.0.0.1:{host.server_port}/proxy/", "gemini_api_key": KEY, **changes}
    return Settings.read(_env_file=None, **values)


def test_it_asks_about_the_model_and_for_no_picture(host: Host) -> None:
    unknown, finding = gemini.check_gemini(settings(host, gemini_model="some/model"))
    assert (unknown.result, "not in the model table" in unknown.said) == (Result.WARNING, True)
    assert host.asked == [("/proxy/v1beta/models/some%2Fmodel", KEY)]
    assert finding.result is Result.OK
    assert "the key is accepted" in finding.said


@pytest.mark.parametrize(
    ("status", "result", "said"),
    [
        (404, Result.OK, "does not tell"),
        (405, Result.OK, "does not tell"),
        (400, Result.FAILED, "key is refused"),
        (401, Result.FAILED, "key is refused"),
        (403, Result.FAILED, "key is refused"),
        (429, Result.WARNING, "quota"),
        (500, Result.WARNING, "HTTP 500"),
        (302, Result.WARNING, "HTTP 302"),
    ],
)
def test_what_an_answer_means(host: Host, status: int, result: Result, said: str) -> None:
    host.status = status
    (finding,) = gemini.check_gemini(settings(host))
    assert finding.result is result
    assert said in finding.said
    assert KEY not in finding.said + finding.remedy
    assert len(host.asked) == 1, "a redirect is not followed with the key"


def test_googles_own_404_is_an_unknown_model(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemini_models, "GOOGLE", f"http://127.0.0.1:{host.server_port}")
    host.status = 404
    (finding,) = gemini.check_gemini(settings(host, gemini_base_url=None))
    assert (finding.result, finding.remedy) == (Result.FAILED, "set GEMINI_MODEL to one of docs/models.md")


@pytest.mark.parametrize("url", ["not a url", "ftp://host", "http://[::1", "http://127.0.0.1:9"])
def test_an_invalid_host(host: Host, url: str) -> None:
    (finding,) = gemini.check_gemini(settings(host, gemini_base_url=url))
    assert finding.result is Result.FAILED
    assert "GEMINI_BASE_URL" in finding.said + finding.remedy


def test_a_key_that_no_header_can_hold(host: Host) -> None:
    (finding,) = gemini.check_gemini(settings(host, gemini_api_key="ключ"))
    assert finding.result is Result.FAILED
    assert "ключ" not in finding.said + finding.remedy


def test_404_of_google_is_an_unknown_model_also_where_its_address_is_set(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before: "its host answers; it does not tell whether it has …" with a ✓."""
    monkeypatch.setattr(gemini_models, "GOOGLE", "https://127.0.0.1")
    host.status = 404
    (finding,) = gemini.check_gemini(settings(host))
    assert finding.result is Result.FAILED
    assert "there is no model gemini-nano-banana-2.1" in finding.said


@pytest.mark.parametrize(
    ("model", "result", "said"),
    [
        ("gemini-2.5-flash-image", Result.FAILED, "past its shutdown date, 2026-10-02"),
        ("gemini-3.1-flash-image", Result.FAILED, "past its shutdown date, 2026-10-29"),
        ("gemini-9-image", Result.WARNING, "not in the model table"),
    ],
)
def test_retired_or_unknown_model_is_named_before_the_server_is_asked(
    host: Host, model: str, result: Result, said: str
) -> None:
    """A retired model still answers this question."""
    finding, asked = gemini.check_gemini(settings(host, gemini_model=model))
    assert finding.result is result
    assert said in finding.said
    assert asked.result is Result.OK


def test_model_near_its_shutdown_is_a_warning(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    day = datetime.now(UTC).date() + timedelta(days=30)
    soon = replace(model_of(DEFAULT_MODEL), shutdown=day, replacement="gemini-3-pro-image")
    findings = list(gemini._of_table(soon, ModelChoice(), datetime.now(UTC).date()))
    assert [finding.result for finding in findings] == [Result.WARNING]
    assert f"{day:%Y-%m-%d}" in findings[0].said
    assert "gemini-3-pro-image" in findings[0].remedy


def test_every_model_that_a_setting_names_is_asked_about(host: Host) -> None:
    tried = settings(host, gemini_model_eats="gemini-3-pro-image", gemini_fallback_models="gemini-3.1-flash-lite-image")
    assert [finding.result for finding in gemini.check_gemini(tried)] == [Result.OK] * 3
    assert [path.rpartition("/")[2] for path, _ in host.asked] == [
        "gemini-nano-banana-2.1",
        "gemini-3-pro-image",
        "gemini-3.1-flash-lite-image",
    ]


def test_size_and_level_that_the_model_does_not_take_are_warnings(host: Host) -> None:
    tried = settings(host, gemini_model="gemini-3.1-flash-lite-image", gemini_image_size="4K", gemini_thinking="medium")
    size, level, _ = gemini.check_gemini(tried)
    assert (size.result, size.remedy) == (Result.WARNING, "set GEMINI_IMAGE_SIZE to one of 1K")
    assert (level.result, level.remedy) == (Result.WARNING, "set GEMINI_THINKING to one of minimal, high")


def test_model_without_generate_content_is_named(host: Host) -> None:
    host.body = b'{"supportedGenerationMethods": ["embedContent"]}'
    _, finding = gemini.check_gemini(settings(host, gemini_model="gemini-embedding-001"))
    assert finding.result is Result.FAILED
    assert "makes no pictures (it can embedContent)" in finding.said


def test_a_key_without_the_api_shows_googles_message(host: Host) -> None:
    host.status = 403
    host.body = (
        b'{"error": {"message": "Generative Language API has not been used in project 12 before or it is disabled."}}'
    )
    (finding,) = gemini.check_gemini(settings(host))
    assert "has not been used in project 12" in finding.said
    assert "enabled in its project" in finding.remedy


@pytest.mark.parametrize(
    ("methods", "result", "said"),
    [
        (["generateContent", "countTokens", "createCachedContent"], Result.FAILED, "is a text model"),
        (["generateContent", "createCachedContent"], Result.FAILED, "is a text model"),
        (["predict"], Result.FAILED, "makes no pictures (it can predict)"),
        (["generateContent", "batchGenerateContent"], Result.OK, "Not checked"),
    ],
)
def test_model_that_is_not_in_the_table_is_judged_by_its_resource(
    methods: list[str], result: Result, said: str, host: Host
) -> None:
    """Before, each model with generateContent passed, and every job failed with a 400."""
    host.body = json.dumps({"supportedGenerationMethods": methods}).encode()
    unknown, finding = gemini.check_gemini(settings(host, gemini_model="gemini-9-flash"))
    assert "not in the model table" in unknown.said
    assert finding.result is result
    assert said in finding.said


def test_text_model_of_the_stand_in_is_named() -> None:
    with GeminiStandIn(api_key=KEY) as server:
        tried = Settings.read(
            _env_file=None, gemini_base_url=server.url, gemini_api_key=KEY, gemini_model=TEXT_MODELS[0]
        )
        _, finding = gemini.check_gemini(tried)
    assert finding.result is Result.FAILED
    assert "is a text model" in finding.said


def test_model_that_is_described_but_takes_no_requests_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Google shut a model down before the date of the table."""
    monkeypatch.setattr(gemini_requests, "takes_requests", lambda _model: False)
    monkeypatch.setattr(gemini_server, "takes_requests", lambda _model: False)
    with GeminiStandIn(api_key=KEY) as server:
        tried = Settings.read(_env_file=None, gemini_base_url=server.url, gemini_api_key=KEY)
        (finding,) = gemini.check_gemini(tried)
        assert server.state.requests == []
    assert finding.result is Result.FAILED
    assert "described but takes no requests" in finding.said


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("SERVICE_DISABLED", "the key belongs to project 12, where the Gemini API is not enabled"),
        ("API_KEY_SERVICE_BLOCKED", "restrictions of the key (project 12)"),
        ("BILLING_DISABLED", "the key belongs to project 12, which has no billing"),
        ("CONSUMER_SUSPENDED", "has suspended project 12"),
        ("API_KEY_EXPIRED", "make a new key"),
    ],
)
def test_key_of_another_project_is_named_with_the_project(reason: str, remedy: str, host: Host) -> None:
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": {"consumer": "projects/12", "service": "generativelanguage.googleapis.com"},
    }
    host.status = 403
    host.body = json.dumps({"error": {"code": 403, "message": "No.", "details": [{"@type": "Help"}, info]}}).encode()
    (finding,) = gemini.check_gemini(settings(host))
    assert finding.result is Result.FAILED
    assert remedy in finding.remedy


# --- Vertex AI -------------------------------------------------------------------------------------------


def vertex(server: GeminiStandIn, credentials: Path, **changes: Any) -> Settings:
    values = {
        "use_vertex_ai": True,
        "vertex_project": "pictures",
        "vertex_location": "europe-west4",
        "vertex_credentials": credentials,
        "gemini_base_url": server.url,
        **changes,
    }
    return Settings.read(_env_file=None, **values)


def test_vertex_ai_is_asked_for_the_model_and_the_unchecked_is_named(tmp_path: Path) -> None:
    """Before, only the file of the credentials was read."""
    with GeminiStandIn(project="pictures") as server:
        account = service_account(tmp_path / "sa.json", f"{server.url}/token")
        (finding,) = gemini.check_gemini(vertex(server, account))
        assert server.state.requests == [], "a picture was asked for"
    assert finding.result is Result.OK, finding
    assert "gemini-nano-banana-2.1 answers in project pictures, europe-west4" in finding.said
    assert "Not checked" in finding.said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vertex_project": "other"}, "denied on resource '//aiplatform.googleapis.com/projects/other/"),
        ({"gemini_model": "gemini-9-flash"}, "does not know the model gemini-9-flash"),
        ({"gemini_base_url": "http://127.0.0.1:9"}, "Cannot reach Gemini"),
    ],
)
def test_vertex_ai_refuses_and_the_reason_is_shown(changes: dict[str, str], said: str, tmp_path: Path) -> None:
    with GeminiStandIn(project="pictures") as server:
        account = service_account(tmp_path / "sa.json", f"{server.url}/token")
        *_, finding = gemini.check_gemini(vertex(server, account, **changes))
    assert finding.result is Result.FAILED
    assert said in finding.said
    assert finding.remedy


def test_account_that_google_does_not_know_is_named(tmp_path: Path) -> None:
    with GeminiStandIn() as server:
        account = service_account(tmp_path / "sa.json", f"{server.url}/nowhere")
        (finding,) = gemini.check_gemini(vertex(server, account))
    assert finding.result is Result.FAILED
    assert "GOOGLE_APPLICATION_CREDENTIALS" in finding.said


# --- a picture -------------------------------------------------------------------------------------------


def test_picture_is_made_and_its_cost_printed() -> None:
    with GeminiStandIn(api_key=KEY) as server:
        tried = Settings.read(_env_file=None, gemini_base_url=server.url, gemini_api_key=KEY)
        finding = gemini.try_a_picture(tried)
        assert finding.result is Result.OK, finding
        assert "gemini-nano-banana-2.1 made a picture of 1024×1024 pixels" in finding.said
        assert "for 0.0352 USD" in finding.said, "1,120 tokens of the picture, 210 of thoughts"
        assert len(server.state.requests) == 1


def test_a_refused_picture_shows_the_reason() -> None:
    with GeminiStandIn(api_key=KEY) as server:
        tried = Settings.read(_env_file=None, gemini_base_url=server.url, gemini_api_key="wrong")
        finding = gemini.try_a_picture(tried)
    assert finding.result is Result.FAILED
    assert "GEMINI_API_KEY" in finding.said
    assert "wrong" not in finding.said
