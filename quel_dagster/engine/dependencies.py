"""The outside systems that the engine works with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quel_dagster.adapters.cancel_flags import CancelFlags
from quel_dagster.adapters.counters import Counters
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.gemini_quota import GeminiQuota
from quel_dagster.adapters.storage.outages import OutageTolerantStore
from quel_dagster.jobs.limits import Limits

if TYPE_CHECKING:
    from quel_dagster.adapters.gemini.client import GeminiClient


@dataclass(frozen=True)
class Dependencies:
    """The adapters and limits that all sessions of a process share. Each can be replaced in tests."""

    database: Database
    database_url: str
    store: OutageTolerantStore
    gemini: GeminiClient
    #: the rate limiter that `gemini` uses
    quota: GeminiQuota
    cancel_flags: CancelFlags
    counters: Counters
    #: credits per picture
    price: int
    #: maximum of concurrent Gemini calls per job
    max_concurrent_images: int
    limits: Limits
