"""Pauses of the whole installation's intake, kept in Redis: while one is in force no job begins.

Responsibilities: the record of a pause (author, reason, start), set, read and ended by any process.
Not here: its effect (the queue sensor, the run queue); the detection of an overloaded Gemini (`gemini_outage`).

While a pause by Gemini is in force, one new job in PROBE_JOB_SECONDS is let through (`admits_a_probe`): the pictures
that wait may all be unavailable for reasons of their own, and only another one can show that.

Each pauser has its own key, so that the end of one pause does not end the other's. A pause by an operator
stays until the operator ends it. A pause by a program lapses unless the program renews it, so that a killed process
stops the intake for LAPSE_SECONDS at most.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import redis

from quel_dagster.redaction import redact


class Pauser(StrEnum):
    """The parties that can pause the intake."""

    OPERATOR = "operator"
    GEMINI = "gemini"


#: the pause of each pauser: `quel:intake:operator`, `quel:intake:gemini`
KEYS = {pauser: f"quel:intake:{pauser}" for pauser in Pauser}
#: A pause by a program ends this long after its last renewal.
LAPSE_SECONDS = 120.0
#: string: until it lapses, no further job is let through a pause by Gemini
NEXT_PROBE = "quel:intake:gemini:next_probe"
#: A job that is let through in a real outage waits in a worker: at most 72 in the six hours of GEMINI_OUTAGE_HOURS.
PROBE_JOB_SECONDS = 300.0
_REASON_CHARACTERS = 400


@dataclass(frozen=True)
class Pause:
    """One reason why no new jobs are begun."""

    pauser: Pauser
    reason: str
    since: datetime
    #: name of the operator, or host and process
    by: str

    def __str__(self) -> str:
        return f"The intake is paused since {self.since:%Y-%m-%d %H:%M:%S} UTC by {self.by}: {self.reason}"

    def encoded(self) -> str:
        """Return the pause as the value of its key."""
        return json.dumps({"reason": self.reason, "since": self.since.timestamp(), "by": self.by})

    @classmethod
    def new(cls, pauser: Pauser, reason: str, *, by: str) -> Pause:
        """Return a pause that begins now; the reason is one line without secrets."""
        line = redact(" ".join(reason.split()))[:_REASON_CHARACTERS]
        return cls(pauser=pauser, reason=line, since=datetime.now(UTC), by=by)

    @classmethod
    def read(cls, pauser: Pauser, value: bytes) -> Pause:
        """Read a key's value. An unreadable value counts as a pause; its reason names the problem."""
        try:
            record = json.loads(value)
            return cls(
                pauser=pauser,
                reason=str(record["reason"]),
                since=datetime.fromtimestamp(float(record["since"]), UTC),
                by=str(record["by"]),
            )
        except (ValueError, TypeError, KeyError, OverflowError, OSError):
            return cls(
                pauser=pauser,
                reason=f"the record under {KEYS[pauser]} cannot be read; `quel resume` deletes it",
                since=datetime.fromtimestamp(0, UTC),
                by="an unknown program",
            )


def intake_paused(client: redis.Redis) -> Pause | None:
    """Return the pause in force, the operator's first; None when jobs may begin.

    Raises:
        RedisError: Redis did not answer.
    """
    pauses = intake_pauses(client)
    return pauses[0] if pauses else None


def intake_pauses(client: redis.Redis) -> list[Pause]:
    """Return every pause in force, the operator's first.

    Raises:
        RedisError: Redis did not answer.
    """
    values: list[bytes | None] = client.mget(list(KEYS.values()))  # type: ignore[assignment]  # not awaitable here
    return [Pause.read(pauser, value) for pauser, value in zip(KEYS, values, strict=True) if value is not None]


def admits_a_probe(client: redis.Redis) -> bool:
    """Return whether one new job may begin although Gemini's pause is in force; true once in PROBE_JOB_SECONDS.

    Raises:
        RedisError: Redis did not answer.
    """
    return bool(client.set(NEXT_PROBE, "taken", nx=True, px=round(PROBE_JOB_SECONDS * 1000)))


def pause_intake(client: redis.Redis, reason: str, *, by: str, pauser: Pauser = Pauser.OPERATOR) -> Pause:
    """Pause the intake; a pause in force by the same pauser stays as it is.

    Returns:
        the pause in force.
    """
    pause = Pause.new(pauser, reason, by=by)
    lapse = None if pauser is Pauser.OPERATOR else round(LAPSE_SECONDS * 1000)
    while not client.set(KEYS[pauser], pause.encoded(), nx=True, px=lapse):
        before: Any = client.get(KEYS[pauser])
        if before is not None:
            return Pause.read(pauser, before)
    return pause


def resume_intake(client: redis.Redis, pauser: Pauser = Pauser.OPERATOR) -> Pause | None:
    """End a pause.

    Returns:
        the pause that was in force; None when there was none.
    """
    before: Any = client.getdel(KEYS[pauser])
    return None if before is None else Pause.read(pauser, before)
