"""What the Quel web app does when a user presses Generate: rows, uploaded pictures, one push."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from quel_dagster.adapters.database.records import NewJob
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.adapters.storage.store import ObjectStore
from quel_dagster.sandbox.samples import ReferencePicture, SampleJob

#: The first uploaded picture carries the id of the example in domain.md §4.
FIRST_ATTACH_ID = 39070
SANDBOX_EMAIL = "sandbox@localhost"


@dataclass(frozen=True)
class Accounts:
    """Who pays in the sandbox."""

    member_id: UUID
    org_id: UUID


@dataclass(frozen=True)
class WebApp:
    """Acts on the tables, the object store and the queue as the web app does."""

    database: Database
    store: ObjectStore
    queue: JobQueue
    #: credits per picture
    price: int

    async def open_accounts(self, *, member_credit: int, org_credit: int) -> Accounts:
        """A member, and an organization that they own."""
        member_id = await self.database.insert_member(
            email="mina@atelier-nord.example", name="Mina Han", credit=member_credit
        )
        org_id = await self.database.insert_organization(name="Atelier Nord", credit=org_credit, owner_id=member_id)
        return Accounts(member_id, org_id)

    async def upload(self, pictures: Mapping[str, ReferencePicture]) -> dict[str, int]:
        """Store reference pictures as users do; returns the attach id of each name."""
        attach_ids: dict[str, int] = {}
        for name, picture in pictures.items():
            await self.store.put(picture.key, picture.data, content_type=picture.mime_type)
            attach_ids[name] = await self.database.insert_attach(
                name=picture.file_name,
                path=picture.file_name,
                size=len(picture.data),
                mime_type=picture.mime_type,
                storage=self.store.backend,
            )
        return attach_ids

    async def insert(self, sample: SampleJob, attach_ids: Mapping[str, int], accounts: Accounts) -> UUID:
        """The rows of a sample job; returns its id."""
        input_data = sample.input_data(attach_ids, accounts.member_id)
        job_id, _ = await self.database.insert_job(
            NewJob(
                job_type=sample.job_type.value,
                total_images=sample.total_images,
                input_data=input_data,
                path=sample.production_path.value,
                member_id=accounts.member_id,
                org_id=accounts.org_id if sample.payer == "organization" else None,
                name=sample.label,
                stage_count=len(input_data.get("stages") or []) or 1,
            ),
            price=self.price,
        )
        return job_id

    def push(self, *job_ids: UUID) -> None:
        """LPUSH the ids onto `jobs:queue` (domain.md §1)."""
        self.queue.push(*job_ids)


async def sandbox_member(database: Database) -> UUID:
    """The member of an embedded database who pays when nobody is named; opened with 10,000 credits at first."""
    return await database.member_by_email(SANDBOX_EMAIL) or await database.insert_member(
        email=SANDBOX_EMAIL, name="Sandbox", credit=10_000
    )
