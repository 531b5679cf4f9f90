"""The sentence for a connection that PostgreSQL or a pooler refused."""

from __future__ import annotations

import psycopg
import pytest

from quel_dagster.adapters.database.reasons import reason_of


@pytest.mark.parametrize(
    "words",
    [
        "FATAL:  Tenant or user not found",
        "FATAL:  (ENOTFOUND) tenant/user quel_worker.abcdefghijkl not found",
        "FATAL:  (ENOIDENTIFIER) no tenant identifier provided (external_id or sni_hostname required)",
    ],
)
def test_user_that_supabases_pooler_does_not_know_has_its_remedy(words: str) -> None:
    """The words are those of public reports; the pooler itself is not tested."""
    reason = reason_of(psycopg.OperationalError(f"connection to server at 127.0.0.1 failed: {words}"))
    assert reason.said == "the pooler knows no such user or project"
    assert "<role>.<project ref>" in reason.remedy


def test_server_without_a_route_has_its_remedy() -> None:
    text = 'connection to server at "2001:db8::1", port 5432 failed: Network is unreachable'
    reason = reason_of(psycopg.OperationalError(text))
    assert reason.said == "there is no network route to the server"
    assert reason.passes


@pytest.mark.parametrize(
    "words",
    [
        "server conn crashed?",
        "server login has been failing, try again later (server_login_retry)",
        "pgbouncer cannot connect to server",
    ],
)
def test_pooler_without_its_server_is_an_outage_that_passes(words: str) -> None:
    reason = reason_of(psycopg.errors.ProtocolViolation(words))
    assert reason.said == "the pooler has lost PostgreSQL"
    assert reason.passes


def test_pooler_that_cannot_set_parameters_is_an_outage_that_passes() -> None:
    reason = reason_of(psycopg.errors.ProtocolViolation("invalid server parameter"))
    assert reason.said == "the pooler could not set this session's parameters"
    assert reason.passes


def test_pooler_that_repeats_a_refused_password_is_not_an_outage() -> None:
    words = "server login has been failing, cached error: password authentication failed for user"
    assert not reason_of(psycopg.errors.ProtocolViolation(words)).passes
