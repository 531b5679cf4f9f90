"""Pauses of the intake on a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import redis

from quel_dagster.adapters.intake import (
    KEYS,
    LAPSE_SECONDS,
    Pauser,
    intake_paused,
    intake_pauses,
    pause_intake,
    resume_intake,
)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def test_no_pause_nothing_is_paused(client: redis.Redis) -> None:
    assert intake_paused(client) is None
    assert resume_intake(client) is None


def test_paused_says_why_by_whom_and_since_when(client: redis.Redis) -> None:
    pause_intake(client, "the store is\nmoved", by="ana")

    pause = intake_paused(client)
    assert pause is not None
    assert (pause.reason, pause.by, pause.pauser) == ("the store is moved", "ana", Pauser.OPERATOR)
    assert abs(datetime.now(UTC) - pause.since) < timedelta(minutes=1)
    assert str(pause).endswith("UTC by ana: the store is moved")


def test_second_pause_first_reason_stays(client: redis.Redis) -> None:
    first = pause_intake(client, "upgrade", by="ana")
    assert pause_intake(client, "another", by="ben") == first
    assert intake_pauses(client) == [first]


def test_two_pausers_each_ends_only_its_own(client: redis.Redis) -> None:
    pause_intake(client, "overloaded", by="host:1", pauser=Pauser.GEMINI)
    pause_intake(client, "upgrade", by="ana")
    assert [pause.pauser for pause in intake_pauses(client)] == [Pauser.OPERATOR, Pauser.GEMINI]

    ended = resume_intake(client, Pauser.GEMINI)
    assert ended is not None
    assert ended.reason == "overloaded"
    still = intake_paused(client)
    assert still is not None
    assert still.reason == "upgrade"
    resume_intake(client)
    assert intake_paused(client) is None


def test_pause_by_program_lapses_and_by_operator_stays(client: redis.Redis) -> None:
    pause_intake(client, "overloaded", by="host:1", pauser=Pauser.GEMINI)
    pause_intake(client, "upgrade", by="ana")
    assert 0 < client.pttl(KEYS[Pauser.GEMINI]) <= LAPSE_SECONDS * 1000
    assert client.pttl(KEYS[Pauser.OPERATOR]) == -1


@pytest.mark.parametrize("value", [b"hello", b"[]", b'{"reason": 1}', b'{"reason":"x","since":1e99,"by":"y"}', b"\xff"])
def test_record_of_others_is_a_pause_with_a_remedy(client: redis.Redis, value: bytes) -> None:
    client.set(KEYS[Pauser.OPERATOR], value)
    pause = intake_paused(client)
    assert pause is not None
    assert "quel resume" in pause.reason
