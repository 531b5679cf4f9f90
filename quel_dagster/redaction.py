"""Remove secrets from text that leaves a process: logs, errors, events, command output.

Code that reads a secret registers it with `learn` or `learn_url` (`Settings.read` does this for every setting). From
then on `redact` replaces it with `***`, in every notation in which a program may write it. The password of any URL and
the query of one that is signed for S3 are replaced without registration.

`install` redacts Python's log records and uncaught exceptions. Dagster's storage and the output of commands call
`redact` themselves.
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

#: Characters. A shorter secret occurs in ordinary words too; it is replaced in URLs alone.
SHORTEST = 8
#: Characters. A shorter secret is replaced only as a word: the password `postgres`, but not the scheme `postgresql`.
ANYWHERE = 16

_URL_PASSWORD = re.compile(r"(?<=://)([^\s/:@'\"]*):[^\s/@'\"]+@")
_SIGNED_QUERY = re.compile(r"\?[^\s?'\"]*X-Amz-Signature=[^\s'\"]*", re.IGNORECASE)
_PASSWORD_OPTIONS = {"password", "sslpassword"}

_lock = threading.Lock()
#: every notation of every registered secret, in lower case
_notations: frozenset[str] = frozenset()
_pattern: re.Pattern[str] | None = None


def learn(*secrets: str | None) -> None:
    """Register secrets: `redact` replaces them from now on, in the whole process."""
    global _notations, _pattern  # noqa: PLW0603 - one list per process
    new = {text.lower() for secret in secrets if secret for text in _written(secret) if len(text) >= SHORTEST}
    with _lock:
        if new <= _notations:
            return
        _notations |= new
        longest_first = sorted(_notations, key=lambda text: (-len(text), text))
        _pattern = re.compile("|".join(map(_expression, longest_first)), re.IGNORECASE)


def learn_url(url: str | None) -> None:
    """Register the passwords in this URL, percent-encoded or not."""
    if not url:
        return
    try:
        parts = urlsplit(url)
        password = parts.password
    except ValueError:  # not a URL: the code that connects reports that
        learn(url)
        return
    options = [value for name, value in parse_qsl(parts.query) if name in _PASSWORD_OPTIONS]
    learn(password, unquote(password or ""), *options)


def redact(text: str) -> str:
    """Return the text with every secret replaced."""
    if _pattern is not None:
        lowered = text.lower()
        if any(notation in lowered for notation in _notations):  # far cheaper than the pattern, and hardly ever true
            text = _pattern.sub(MASK, text)
    if "://" in text:
        text = _URL_PASSWORD.sub(rf"\1:{MASK}@", text) if "@" in text else text
        text = _SIGNED_QUERY.sub(f"?{MASK}", text) if "-Signature=" in text else text
    return text


def _written(secret: str) -> set[str]:
    """Return the notations of a secret in text: as it is, in a URL, in JSON, in a repr."""
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


# --- the hooks of a process --------------------------------------------------------------------------


def install() -> None:
    """Redact every log record, and every exception that ends a thread or the process.

    Further calls do nothing.
    """
    if getattr(logging.getLogRecordFactory(), "redacts", False):
        return
    _guard_log_records()
    _guard_uncaught_exceptions()


def _guard_log_records() -> None:
    """Redact in the log record factory, so that every handler gets the redacted record."""
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
            text = _formatted(*record.exc_info)
            if (clean := redact(text)) != text:
                record.exc_text = clean.rstrip("\n")  # formatters print this instead of formatting the exception
        return record

    make_redacted.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make_redacted)


def _guard_uncaught_exceptions() -> None:
    excepthook, thread_excepthook = sys.excepthook, threading.excepthook

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        text = _formatted(kind, error, trace)
        if (clean := redact(text)) != text:
            sys.stderr.write(clean)
        else:
            excepthook(kind, error, trace)

    def report_of_thread(args: threading.ExceptHookArgs) -> None:
        text = _formatted(args.exc_type, args.exc_value, args.exc_traceback)
        if args.exc_type is not SystemExit and (clean := redact(text)) != text:
            sys.stderr.write(f"Exception in thread {args.thread.name if args.thread else 'unknown'}:\n{clean}")
        else:
            thread_excepthook(args)

    sys.excepthook, threading.excepthook = report, report_of_thread


def _formatted(kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> str:
    return "".join(traceback.format_exception(kind, error, trace))
