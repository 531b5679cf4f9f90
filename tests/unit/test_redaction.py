"""Registered secrets are replaced in every notation, log record, traceback and error; other text stays."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

import pytest

from quel_dagster import redaction
from quel_dagster.errors import QuelError
from quel_dagster.redaction import MASK, learn, learn_url, redact
from quel_dagster.settings import Settings


@pytest.fixture(autouse=True)
def _no_secrets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(redaction, "_notations", frozenset())
    monkeypatch.setattr(redaction, "_pattern", None)
    factory = logging.getLogRecordFactory()
    hooks = sys.excepthook, redaction.threading.excepthook
    yield
    logging.setLogRecordFactory(factory)
    sys.excepthook, redaction.threading.excepthook = hooks


AWKWARD = 'ca/na+ry "q" \\ 비밀 @:%41'


@pytest.mark.parametrize(
    "written",
    [
        AWKWARD,
        quote(AWKWARD, safe=""),
        quote(AWKWARD),
        quote_plus(AWKWARD),
        quote(AWKWARD, safe="").lower(),
        json.dumps(AWKWARD)[1:-1],
        json.dumps(AWKWARD, ensure_ascii=False)[1:-1],
        repr(AWKWARD)[1:-1],
    ],
)
def test_every_notation_of_a_secret(written: str) -> None:
    learn(AWKWARD)
    assert redact(f"before {written} after") == f"before {MASK} after"


def test_passwords_of_urls_that_were_taught_wherever_they_stand() -> None:
    learn_url("postgresql://quel:s3cret%2Fpassword@db.example:5432/quel?options=-csearch_path")
    learn_url("postgresql://db.example/quel?user=quel&password=another%20password")
    said = redact("s3cret/password s3cret%2Fpassword 'another password' db.example:5432/quel")
    assert said == f"{MASK} {MASK} '{MASK}' db.example:5432/quel"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("redis://:hunter2@localhost:6379/0", "redis://:***@localhost:6379/0"),
        ("to amqp://me:p%40ss@h, again", "to amqp://me:***@h, again"),
        ("https://example.org/a:b@c", "https://example.org/a:b@c"),
        ("https://example.org:8080/x", "https://example.org:8080/x"),
        ("mina@example.org", "mina@example.org"),
        ('GET https://s3/b/k?X-Amz-Date=1&X-Amz-Signature=ab&x=1 "200"', 'GET https://s3/b/k?*** "200"'),
        ("GET https://s3/b/k?width=100", "GET https://s3/b/k?width=100"),
    ],
)
def test_passwords_and_signatures_in_unregistered_urls_are_replaced(text: str, clean: str) -> None:
    assert redact(text) == clean


def test_a_weak_password_does_not_spoil_innocent_words() -> None:
    learn("postgres", "quel", "redis")
    text = 'quel: postgresql://host, redis down, user "postgres"'
    assert redact(text) == f'quel: postgresql://host, redis down, user "{MASK}"'


def test_the_longer_of_two_secrets_goes_first() -> None:
    learn("canary-canary-1", "canary-canary-1-and-more")
    assert redact("canary-canary-1-and-more") == MASK


def test_reading_the_settings_registers_their_secrets() -> None:
    Settings.read(
        _env_file=None,
        database_url="postgresql://quel:canary-database@h/db",
        redis_password="canary-redis",
        supabase_service_key="canary-supabase",
        aws_secret_access_key="canary-aws",
        gemini_api_key="canary-gemini",
        alert_webhook_url="https://hooks.example/services/canary-hook",
        storage_url="supabase:",
    )
    text = " ".join(f"canary-{name}," for name in ("database", "redis", "supabase", "aws", "gemini"))
    assert "canary" not in redact(text)
    assert redact("POST https://hooks.example/services/canary-hook") == f"POST {MASK}"
    assert "canary" not in redact("request line: /services/canary-hook")
    assert redact("STORAGE_URL is supabase: at h/db") == "STORAGE_URL is supabase: at h/db"


def test_errors_of_this_project_are_redacted() -> None:
    learn("canary-of-this-test")
    assert str(QuelError("refused: key canary-of-this-test is bad")) == f"refused: key {MASK} is bad"


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(name)s %(message)s"))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def test_log_records_are_redacted_for_every_handler() -> None:
    learn("canary-of-this-test")
    redaction.install()
    redaction.install()
    log, lines = logging.Logger("theirs"), _Lines()
    log.addHandler(lines)
    log.warning("key %s, url %s", "canary-of-this-test", "redis://:pw@h")
    log.warning("as it is: %d %%", 7)

    def fail() -> None:
        try:
            raise RuntimeError("inner canary-of-this-test")  # noqa: TRY301 - the cause of the next
        except RuntimeError as inner:
            raise ValueError("outer") from inner

    try:
        fail()
    except ValueError:
        log.exception("it failed")
    printed = "\n".join(lines.lines)
    assert lines.lines[:2] == [f"theirs key {MASK}, url redis://:{MASK}@h", "theirs as it is: 7 %"]
    assert "canary" not in printed
    assert "ValueError: outer" in printed
    assert f"inner {MASK}" in printed


@pytest.mark.parametrize("place", ["main", "thread"])
def test_uncaught_exceptions_are_redacted(place: str) -> None:
    program = """
        import sys, threading
        from quel_dagster import redaction
        redaction.learn("canary-of-this-test")
        redaction.install()
        def fail():
            raise RuntimeError("key canary-of-this-test is bad" if sys.argv[2] == "secret" else "innocent")
        if sys.argv[1] == "main":
            fail()
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    """
    for what, expected in (("secret", f"RuntimeError: key {MASK} is bad"), ("open", "RuntimeError: innocent")):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), place, what], capture_output=True, text=True, check=False
        )
        assert expected in done.stderr
        # the line of the program is shown by the traceback of a file only; -c has none
        assert "canary" not in done.stderr
        assert "Traceback" in done.stderr
