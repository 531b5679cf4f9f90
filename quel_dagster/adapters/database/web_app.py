"""Rows as the web app writes them: productions, jobs, members, uploads."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import JSONB

from quel_dagster.adapters.database.connection import Connection
from quel_dagster.adapters.database.records import NewJob

#: As the web app does on Generate: the production first, then its job (domain.md §2).
_INSERT_PRODUCTION = text(
    """
    insert into public.quel_production_photo
        (quel_member_id, production_name, pipeline_type, stage_count, total_quantity, quel_production_path)
    values (:member_id, :name, :job_type, :stage_count, :total_images, :path)
    returning production_id
    """
)
_INSERT_JOB = text(
    """
    insert into public.quel_production_jobs
        (production_id, job_type, stage_index, stage_name, batch_index, total_images, job_input_data,
         quel_member_id, org_id, estimated_credits, quel_production_path)
    values (:production_id, :job_type, :stage_index, :stage_name, :batch_index, :total_images, :input_data,
            :member_id, :org_id, :estimated_credits, :path)
    returning job_id
    """
).bindparams(bindparam("input_data", type_=JSONB))
_FIND_MEMBER_BY_EMAIL = text("select quel_member_id from public.quel_member where quel_email = :email limit 1")
_INSERT_MEMBER = text(
    "insert into public.quel_member (quel_email, quel_name, provider, provider_sub, quel_member_credit) "
    "values (:email, :name, 'sandbox', :email, :credit) returning quel_member_id"
)
_INSERT_ORGANIZATION = text(
    "insert into public.quel_organization (org_name, org_credit, owner_id) "
    "values (:name, :credit, :owner_id) returning org_id"
)
_INSERT_ORGANIZATION_MEMBER = text(
    "insert into public.quel_organization_member (org_id, member_id, role) values (:org_id, :member_id, 'owner')"
)
#: An uploaded reference picture, as the web app stores it.
_INSERT_ATTACH = text(
    """
    insert into public.quel_attach
        (attach_original_name, attach_file_name, attach_file_path, attach_file_size, attach_file_type,
         attach_directory, attach_storage_type)
    values (:name, :name, :path, :size, :mime_type, :path, :storage)
    returning attach_id
    """
)
#: Pictures of the sandbox carry ids like those of domain.md §4: references from 39070, results after them.
_START_ATTACH_IDS_AT = "alter table public.quel_attach alter column attach_id restart with {first:d}"


class WebAppRows:
    """What samples, tests and `quel submit` insert."""

    def __init__(self, database: Connection) -> None:
        self._database = database

    async def insert_job(self, job: NewJob, *, price: int) -> tuple[UUID, UUID]:
        """Insert a production and its job as the web app does; returns (job id, production id)."""
        staged = job.job_type == "pipeline_stage"
        async with self._database.engine.connect() as plain:
            connection = await plain.execution_options(isolation_level="READ COMMITTED")
            async with connection.begin():
                production_id = (
                    await connection.execute(
                        _INSERT_PRODUCTION,
                        {
                            "member_id": job.member_id,
                            "name": job.name,
                            "job_type": job.job_type,
                            "stage_count": job.stage_count,
                            "total_images": job.total_images,
                            "path": job.path,
                        },
                    )
                ).scalar_one()
                job_id = (
                    await connection.execute(
                        _INSERT_JOB,
                        {
                            "production_id": production_id,
                            "job_type": job.job_type,
                            "stage_index": 0 if staged else None,
                            "stage_name": job.name if staged else None,
                            "batch_index": None if staged else 0,
                            "total_images": job.total_images,
                            "input_data": job.input_data,
                            "member_id": job.member_id,
                            "org_id": job.org_id,
                            "estimated_credits": max(0, job.total_images) * price,
                            "path": job.path,
                        },
                    )
                ).scalar_one()
        return job_id, production_id

    async def member_by_email(self, email: str) -> UUID | None:
        rows = await self._database.ask(_FIND_MEMBER_BY_EMAIL, email=email)
        return rows[0][0] if rows else None

    async def insert_member(self, *, email: str, name: str, credit: int) -> UUID:
        return UUID(str((await self._database.ask(_INSERT_MEMBER, email=email, name=name, credit=credit))[0][0]))

    async def insert_organization(self, *, name: str, credit: int, owner_id: UUID) -> UUID:
        org_id = (await self._database.ask(_INSERT_ORGANIZATION, name=name, credit=credit, owner_id=owner_id))[0][0]
        await self._database.ask(_INSERT_ORGANIZATION_MEMBER, org_id=org_id, member_id=owner_id)
        return UUID(str(org_id))

    async def insert_attach(self, *, name: str, path: str, size: int, mime_type: str, storage: str) -> int:
        """Insert an uploaded picture's row, as the web app does."""
        row = await self._database.ask(
            _INSERT_ATTACH, name=name, path=path, size=size, mime_type=mime_type, storage=storage
        )
        return int(row[0][0])

    async def start_attach_ids_at(self, first: int) -> None:
        """Let the identity of quel_attach continue from `first`, in an embedded database."""
        async with self._database.engine.connect() as connection:
            await connection.exec_driver_sql(_START_ATTACH_IDS_AT.format(first=first))
