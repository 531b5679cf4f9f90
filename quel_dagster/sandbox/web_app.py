"""Imitate the Quel web app when a user presses Generate: insert rows, upload pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from quel_dagster.adapters.database.records import NewJob
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.storage.store import ObjectStore
from quel_dagster.sandbox.samples import ReferencePicture, SampleJob

#: The first uploaded picture carries the id of the example in domain.md §4.
FIRST_ATTACH_ID = 39070
SANDBOX_EMAIL = "sandbox@localhost"


@dataclass(frozen=True)
class Accounts:
    """The payer of sample jobs."""

    member_id: UUID
    org_id: UUID


@dataclass(frozen=True)
class WebApp:
    """Writes to the tables and the object store as the web app does."""

    database: Database
    store: ObjectStore
    #: credits per picture
    price: int

    async def open_accounts(self, *, member_credit: int, org_credit: int) -> Accounts:
        """Insert a member, and an organization that they own."""
        member_id = await self.database.web_app.insert_member(
            email="mina@atelier-nord.example", name="Mina Han", credit=member_credit
        )
        org_id = await self.database.web_app.insert_organization(
            name="Atelier Nord", credit=org_credit, owner_id=member_id
        )
        return Accounts(member_id, org_id)

    async def upload(self, pictures: Mapping[str, ReferencePicture]) -> dict[str, int]:
        """Store reference pictures as users do; return the attach id of each name."""
        attach_ids: dict[str, int] = {}
        for name, picture in pictures.items():
            await self.store.put(picture.key, picture.data, content_type=picture.mime_type)
            attach_ids[name] = await self.database.web_app.insert_attach(
                name=picture.file_name,
                path=picture.file_name,
                size=len(picture.data),
                mime_type=picture.mime_type,
                storage=self.store.backend,
            )
        return attach_ids

    async def insert(self, sample: SampleJob, attach_ids: Mapping[str, int], accounts: Accounts) -> UUID:
        """Insert the rows of a sample job; return its id."""
        input_data = sample.input_data(attach_ids, accounts.member_id)
        job_id, _ = await self.database.web_app.insert_job(
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


async def sandbox_member(database: Database) -> UUID:
    """Return the default payer of an embedded database; created with 10,000 credits on first use."""
    return await database.web_app.member_by_email(SANDBOX_EMAIL) or await database.web_app.insert_member(
        email=SANDBOX_EMAIL, name="Sandbox", credit=10_000
    )
