"""Every answer that a host may give to the doctor's question has a meaning."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from quel_dagster.cli.doctor import gemini
from quel_dagster.cli.doctor.finding import Result
from quel_dagster.settings import Settings

KEY = "canary-key"


class Host(ThreadingHTTPServer):
    status = 200
    asked: ClassVar[list[tuple[str, str | None]]] = []


class Handler(BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("x-goog-api-key")))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

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
    (finding,) = gemini.check_gemini(settings(host, gemini_model="some/model"))
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
    monkeypatch.setattr(gemini, "GOOGLE", f"http://127.0.0.1:{host.server_port}")
    host.status = 404
    (finding,) = gemini.check_gemini(settings(host, gemini_base_url=None))
    assert (finding.result, finding.remedy) == (Result.FAILED, "correct GEMINI_MODEL")


@pytest.mark.parametrize("url", ["not a url", "ftp://host", "http://[::1", "http://127.0.0.1:9"])
def test_a_host_that_is_none(host: Host, url: str) -> None:
    (finding,) = gemini.check_gemini(settings(host, gemini_base_url=url))
    assert finding.result is Result.FAILED
    assert "GEMINI_BASE_URL" in finding.said + finding.remedy


def test_a_key_that_no_header_can_hold(host: Host) -> None:
    (finding,) = gemini.check_gemini(settings(host, gemini_api_key="ключ"))
    assert finding.result is Result.FAILED
    assert "ключ" not in finding.said + finding.remedy
