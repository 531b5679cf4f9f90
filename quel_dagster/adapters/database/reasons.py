"""Explain why PostgreSQL, or a pooler in front of it, refused: one sentence and its remedy.

No part of the server's message is repeated: it may hold the URL or values of rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

NO_CONNECTION_STATES = {"53300", "53400"}
#: in the words of PostgreSQL, PgBouncer and Supabase's pooler
_NO_CONNECTION = (
    "too many clients",
    "remaining connection slots",
    "too many connections",
    "no more connections allowed",
    "max client connections reached",
    "MaxClientsInSessionMode",
    "query_wait_timeout",
    "client_login_timeout",
)
#: in the words of psycopg 3 and of libpq
_UNKNOWN_PARAMETER = re.compile(r'invalid (?:connection option|URI query parameter:) "(\w{1,40})"')


@dataclass(frozen=True)
class Reason:
    """What went wrong, and what to do about it."""

    said: str
    remedy: str
    #: it may pass by itself: a server that starts, a network that is not up yet
    passes: bool = False

    def __str__(self) -> str:
        return f"{self.said}; {self.remedy}"


def is_without_connection(error: BaseException) -> bool:
    """Return whether there was no free connection."""
    return getattr(error, "sqlstate", None) in NO_CONNECTION_STATES or any(
        words in str(error) for words in _NO_CONNECTION
    )


def refuses_options(error: BaseException) -> bool:
    """Return whether a pooler refused the search path of the URL."""
    return "unsupported startup parameter" in str(error)


def reason_of(error: BaseException, variable: str = "DATABASE_URL") -> Reason:
    """Return the reason of a psycopg error.

    Args:
        error: what the driver raised.
        variable: the setting that holds the URL.
    """
    state: Any = getattr(error, "sqlstate", None)
    text = str(error)
    if is_without_connection(error):
        return Reason(
            "no free connection",
            "close some, lower QUEL_WORKER_PROCESSES, or raise max_connections or the pool size of the pooler",
            passes=True,
        )
    if refuses_options(error):
        return Reason(
            "a pooler refuses the search path (startup parameter `options`)",
            f"give {variable} without options=…, with a role that has the search_path: "
            "alter role <role> in database <database> set search_path = quel_dagster",
        )
    if unknown := _UNKNOWN_PARAMETER.search(text):
        name = unknown[1]
        return Reason(f"PostgreSQL does not know the URL's parameter {name}", f"remove {name}=… from {variable}")
    for words, reason in _BY_WORDS:
        if any(word in text for word in words):
            return replace(reason, remedy=reason.remedy.replace("{variable}", variable))
    match state:
        case "3F000" | "42P01" | "42883":
            return Reason("a table, schema or function is missing", "`quel doctor` says which")
        case "42501":
            return Reason("this user may not do that", "`quel doctor` says what is not granted")
    known = f"{type(error).__name__}{f', SQLSTATE {state}' if state else ''}"
    return Reason(known, f"check {variable}, see `quel doctor`")


#: The driver drops the SQLSTATE of errors before the connection is open, so these are recognized by their text.
_BY_WORDS: tuple[tuple[tuple[str, ...], Reason], ...] = (
    (
        ("server does not support SSL", "SSL was required"),
        Reason("the server has no TLS, and the URL demands it", "remove sslmode=… from {variable}, or switch TLS on"),
    ),
    (
        ("certificate verify failed", "self-signed certificate", "unable to get local issuer"),
        Reason(
            "the server's certificate is not signed by a trusted authority",
            "name the file of its authority: sslrootcert=/path/authority.pem in {variable}",
        ),
    ),
    (
        ("root certificate file", "sslrootcert"),
        Reason("the file of the certificate authority is not there", "correct sslrootcert=… in {variable}"),
    ),
    (
        ("does not match host name",),
        Reason(
            "the server's certificate is for another host name",
            "use the name of the certificate in {variable}, or sslmode=verify-ca",
        ),
    ),
    (
        ("no encryption", "SSL off", "SSL required", "SSL connection is required"),
        Reason("the server wants TLS", "add sslmode=require to {variable}"),
    ),
    (
        ("pg_hba.conf",),
        Reason("the server lets this user, database or address not in", "add a line to its pg_hba.conf"),
    ),
    (
        ("invalid response to SSL negotiation", "expected authentication request", "wire protocol"),
        Reason("what answers there is not PostgreSQL", "check host and port in {variable}"),
    ),
    (
        ("Tenant or user not found", "(ENOTFOUND)", "(ENOIDENTIFIER)"),
        Reason(
            "the pooler knows no such user or project",
            "on Supabase the user is <role>.<project ref>, and the host that of its Connect dialog; check {variable}",
        ),
    ),
    (
        ("authentication failed", "no password supplied", "no such user", "SASL", "password is required"),
        Reason("user or password refused", "check {variable}"),
    ),
    (
        ("no such database",),
        Reason("the pooler knows no such database", "check {variable}, and [databases] of the pooler"),
    ),
    (
        ("server conn crashed", "server login has been failing", "cannot connect to server"),
        Reason(
            "the pooler has lost PostgreSQL",
            "try again in a moment; check that PostgreSQL runs and lets the pooler in",
            passes=True,
        ),
    ),
    (
        ("invalid server parameter",),  # PgBouncer's words for any error while it applies the client's parameters
        Reason(
            "the pooler could not set this session's parameters",
            "try again in a moment (PostgreSQL may just have ended the connection); check the parameters of {variable}",
            passes=True,
        ),
    ),
    (
        ("Connection refused", "connection refused"),
        Reason("connection refused", "check {variable}, and that the server runs", passes=True),
    ),
    (
        ("Network is unreachable", "No route to host", "Cannot assign requested address"),
        Reason(
            "there is no network route to the server",
            "check {variable}; Supabase's direct connection has only IPv6: without it, use the pooler",
            passes=True,
        ),
    ),
    (
        ("resolve", "translate host", "not known", "Name or service"),
        Reason("its host name is unknown", "check {variable}", passes=True),
    ),
    (
        ("imeout", "timed out"),
        Reason("no answer in time", "check {variable}, and the network between", passes=True),
    ),
    (
        ('database "',),
        Reason("there is no such database", "check {variable}"),
    ),
    (
        ("starting up", "shutting down", "recovery", "terminating connection"),
        Reason("the server starts or stops just now", "try again in a moment", passes=True),
    ),
    (
        ("server closed the connection", "Connection reset", "SSL SYSCALL", "SSL error"),
        Reason(
            "the connection broke off while it was opened", "check {variable}, TLS and the network between", passes=True
        ),
    ),
)
