"""One place where secrets are taken out of text that leaves a process: logs, errors, events, what a command prints.

Whoever reads a secret teaches it (`learn`, `learn_url`; `Settings.read` does for every setting), and from then on
`redact` replaces it, in every notation in which a program may write it down, with `***`. The password of any URL and
the query of one that is signed for S3 are replaced even when nobody taught them.

`install` puts this in front of Python's logging and of exceptions that nobody caught. Dagster's storage and the
commands' output call `redact` at their own doors.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import traceback
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

MASK = "***"

#: A shorter secret is found in innocent words as well; it is replaced in URLs alone.
SHORTEST = 8
#: A shorter one is replaced only where it stands by itself: the password `postgres`, but not the scheme `postgresql`.
ANYWHERE = 16

_URL_PASSWORD = re.compile(r"(?<=://)([^\s/:@'\"]*):[^\s/@'\"]+@")
_SIGNED_QUERY = re.compile(r"\?[^\s?'\"]*X-Amz-Signature=[^\s'\"]*", re.IGNORECASE)
_PASSWORD_OPTIONS = {"password", "sslpassword"}

_lock = threading.Lock()
#: in lower case
_notations: frozenset[str] = frozenset()
_pattern: re.Pattern[str] | None = None


def learn(*secrets: str | None) -> None:
    """Replace these from now on, in all of the process."""
    global _notations, _pattern  # noqa: PLW0603 - what one part of a process was told, no part of it may say
    new = {text.lower() for secret in secrets if secret for text in _written(secret) if len(text) >= SHORTEST}
    with _lock:
        if new <= _notations:
            return
        _notations |= new
        longest_first = sorted(_notations, key=lambda text: (-len(text), text))
        _pattern = re.compile("|".join(map(_expression, longest_first)), re.IGNORECASE)


def learn_url(url: str | None) -> None:
    """Replace the passwords in this URL, percent-encoded or not."""
    if not url:
        return
    try:
        parts = urlsplit(url)
        password = parts.password
    except ValueError:  # no URL at all: whoever uses it will say so
        learn(url)
        return
    options = [value for name, value in parse_qsl(parts.query) if name in _PASSWORD_OPTIONS]
    learn(password, unquote(password or ""), *options)


def redact(text: str) -> str:
    """The text without any secret."""
    if _pattern is not None:
        lowered = text.lower()
        if any(notation in lowered for notation in _notations):  # far cheaper than the pattern, and hardly ever true
            text = _pattern.sub(MASK, text)
    if "://" in text:
        text = _URL_PASSWORD.sub(rf"\1:{MASK}@", text) if "@" in text else text
        text = _SIGNED_QUERY.sub(f"?{MASK}", text) if "-Signature=" in text else text
    return text


def _written(secret: str) -> set[str]:
    """The ways in which a secret gets into text: as it is, in a URL, in JSON, in a repr."""
    return {
        secret,
        quote(secret, safe=""),
        quote(secret),
        quote_plus(secret),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
    }


def _expression(text: str) -> str:
    expression = re.escape(text)
    if len(text) < ANYWHERE:
        before = r"(?<!\w)" if re.match(r"\w", text) else ""
        after = r"(?!\w)" if re.search(r"\w\Z", text) else ""
        expression = before + expression + after
    return expression


# --- in front of a process ---------------------------------------------------------------------------


def install() -> None:
    """Take secrets out of every log record and of every exception that ends a thread or the process.

    May be called again; does nothing then.
    """
    if getattr(logging.getLogRecordFactory(), "redacts", False):
        return
    _guard_log_records()
    _guard_uncaught_exceptions()


def _guard_log_records() -> None:
    """At the making of a record, so that no handler, whoever adds it and when, sees another one."""
    make = logging.getLogRecordFactory()

    def make_redacted(*args: Any, **more: Any) -> logging.LogRecord:
        record = make(*args, **more)
        try:
            said = record.getMessage()
        except Exception:  # noqa: BLE001 - a wrong number of arguments is reported by the handler, as ever
            return record
        clean = redact(said)
        if clean != said:
            record.msg, record.args = clean, ()
        if record.exc_info and record.exc_info[0] is not None:
            told = _told(*record.exc_info)
            if (clean := redact(told)) != told:
                record.exc_text = clean.rstrip("\n")  # what formatters print instead of making it anew
        return record

    make_redacted.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make_redacted)


def _guard_uncaught_exceptions() -> None:
    excepthook, thread_excepthook = sys.excepthook, threading.excepthook

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        told = _told(kind, error, trace)
        if (clean := redact(told)) != told:
            sys.stderr.write(clean)
        else:
            excepthook(kind, error, trace)

    def tell_of_thread(args: threading.ExceptHookArgs) -> None:
        told = _told(args.exc_type, args.exc_value, args.exc_traceback)
        if args.exc_type is not SystemExit and (clean := redact(told)) != told:
            sys.stderr.write(f"Exception in thread {args.thread.name if args.thread else 'unknown'}:\n{clean}")
        else:
            thread_excepthook(args)

    sys.excepthook, threading.excepthook = tell, tell_of_thread


def _told(kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> str:
    return "".join(traceback.format_exception(kind, error, trace))
