"""The messages of runs in the broker."""

from __future__ import annotations

from uuid import uuid4

import pytest

from quel_dagster.platform.broker import RunMessages


def test_run_that_was_sent_waits_in_the_broker(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a run that waits for a busy worker counts as lost, and is sent again."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    messages = RunMessages()
    run_ids = {str(uuid4()) for _ in range(3)}
    for run_id in run_ids:
        messages.send(run_id)
    assert messages.waiting() >= run_ids
