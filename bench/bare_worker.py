"""A worker without Dagster, for comparison: the same engine, adapters and transactions, and nothing around them.

    python -m bench.bare_worker      waits on `jobs:queue` of REDIS_URL; takes every id at once, without a limit

What it leaves out is what Dagster is there for: no page of a run, no events, no lineage, no retries, no recovery.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import redis.asyncio

from quel_dagster.adapters.queue import PROCESSING, QUEUE
from quel_dagster.adapters.redis_connection import open_redis
from quel_dagster.engine.engine import Engine
from quel_dagster.settings import Settings


def _ignore(_line: str) -> None:
    """A bare worker would print it; that costs next to nothing."""


async def make(engine: Engine, job_id: UUID) -> None:
    """One job, from its row to its end."""
    run_id = str(uuid4())
    session = await engine.session(job_id, run_id=run_id)
    try:
        plan = await session.plan(_ignore)
        outcomes = await asyncio.gather(*(session.make(unit, _ignore) for unit in plan.units))
        await session.settle(outcomes, _ignore)
    finally:
        await engine.close_session(run_id)


async def work(settings: Settings) -> None:
    """Take ids until cancelled."""
    url = settings.redis()
    assert url is not None
    engine = Engine.from_settings(settings)
    queue: redis.asyncio.Redis = open_redis(redis.asyncio.Redis, url)
    try:
        await engine.dependencies.database.installation.ensure_schema()

        async def take(raw: bytes) -> None:
            await make(engine, UUID(raw.decode()))
            await queue.lrem(PROCESSING, 1, raw.decode())

        print("ready", flush=True)
        async with asyncio.TaskGroup() as jobs:
            while True:
                raw: Any = await queue.blmove(QUEUE, PROCESSING, 5, "RIGHT", "LEFT")
                if raw is not None:
                    jobs.create_task(take(raw))
    finally:
        await queue.aclose()
        await engine.aclose()


async def main() -> None:
    task = asyncio.ensure_future(work(Settings.read()))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with suppress(asyncio.CancelledError):
        await task


if __name__ == "__main__":
    asyncio.run(main())
