"""Works on jobs with the adapter of an older version, in a process of its own; its folder is argument 1.

Prints a line when it begins. Takes jobs as a worker does, stops in the middle of some, and ends once all have ended.
"""

from __future__ import annotations

import asyncio
import random
import sys
from uuid import UUID, uuid4

sys.path.insert(0, sys.argv[1])  # a program, not a module to import

import quel_dagster
from quel_dagster.adapters.database.store import Database
from quel_dagster.errors import LeaseHeldError, LeaseLostError
from quel_dagster.jobs.model import JobStatus, Slot
from quel_dagster.jobs.storage_keys import picture_key

PRICE = 20
LEASE_SECONDS = 2.0


async def main(url: str, total: int, names: list[str]) -> None:
    """Work until every job has ended."""
    chance = random.Random()  # noqa: S311 - which job, and where to stop
    database = Database(url)
    await database.ensure_schema()
    print("began", quel_dagster.__file__, flush=True)  # noqa: T201 - for the test
    open_jobs = [UUID(name) for name in names]
    while open_jobs:
        job_id = chance.choice(open_jobs)
        report = (await database.report([job_id]))[job_id]
        if JobStatus(report["status"]).ended:
            open_jobs.remove(job_id)
            continue
        await work(database, job_id, total, stop_after=chance.choice([1, 2, total, total]))
        await asyncio.sleep(0.01)
    await database.aclose()


async def work(database: Database, job_id: UUID, total: int, *, stop_after: int) -> None:
    """One run: some pictures, then the end, or nothing more, as when the process dies."""
    try:
        claim = await database.claim(job_id, run_id=uuid4().hex, worker="older:1", seconds=LEASE_SECONDS)
        member_id = claim.job.member_id
        await database.begin(claim.job, claim.token, claimed_id=None, price=PRICE)
        for number in range(total):
            if number == len(claim.made) + stop_after:  # never without progress, which would be poison
                return
            await database.commit_picture(
                job_id,
                claim.token,
                member_id=member_id,
                key=picture_key(member_id, job_id, Slot(unit=0, number=number)),
                size=1234,
                storage="file",
                price=PRICE,
                total=total,
            )
        await database.settle(job_id, claim.token, status=JobStatus.COMPLETED, total=total, error=None, inputs=0)
    except (LeaseHeldError, LeaseLostError):
        return


if __name__ == "__main__":
    asyncio.run(main(sys.argv[2], int(sys.argv[3]), sys.argv[4:]))
