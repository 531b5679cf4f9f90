"""Every statement that this project sends to PostgreSQL, named and described.

The transactions themselves are functions of schema/quel_dagster.sql; these statements call them or read.
"""

from __future__ import annotations

from sqlalchemy import TextClause, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB

#: Version and digest of our schema as installed: `quel_dagster 1 <sha256>`, or NULL. Read from the catalog's table:
#: to_regnamespace() answers from a cache that does not notice what others commit during our transaction.
SCHEMA_COMMENT = text(
    "select (select obj_description(oid, 'pg_namespace') from pg_catalog.pg_namespace where nspname = 'quel_dagster')"
)

#: Are the web app's tables here?
WEB_APP_TABLES = text("select to_regclass('public.quel_production_jobs') is not null")

#: One installer at a time; the number is arbitrary but fixed.
SCHEMA_LOCK = text("select pg_advisory_xact_lock(7061737)")

CLAIM_JOB = text(
    "select quel_dagster.claim_job(:job_id, :run_id, cast(:retry_of as text[]), :worker, :seconds) as answer"
)
COMMIT_PICTURE = text(
    "select quel_dagster.commit_picture("
    ":job_id, :token, cast(:member_id as uuid), :key, :size, :storage, :price, :total) as answer"
)
SETTLE_JOB = text("select quel_dagster.settle_job(:job_id, :token, :status, :total, :error, :inputs) as answer")
KEEP_CANCEL = text("select quel_dagster.keep_cancel(:job_id)")

#: Renew a lease by the database's clock; no row means that it is lost.
RENEW_LEASE = text(
    "update quel_dagster.job_lease set expires_at = clock_timestamp() + make_interval(secs => :seconds) "
    "where job_id = :job_id and token = :token returning token"
)
#: Give a lease back before the job's end: the row stays, so that the sweep knows the job for ours.
EXPIRE_LEASE = text(
    "update quel_dagster.job_lease set expires_at = clock_timestamp() where job_id = :job_id and token = :token"
)
RELEASE_LEASE = text("delete from quel_dagster.job_lease where job_id = :job_id and token = :token")

END_ABANDONED_JOB = text(
    "select quel_dagster.end_abandoned_job(:job_id, cast(:run_ids as text[]), :status, :error) as answer"
)
COUNT_RECOVERY = text("select quel_dagster.count_recovery(:job_id) as answer")
#: Does this run hold a lease that lives? Asked by the launcher when the run's worker does not answer.
RUN_HOLDS_LIVE_LEASE = text(
    "select exists (select 1 from quel_dagster.job_lease where run_id = :run_id and expires_at > clock_timestamp())"
)

#: Jobs that wait or are worked on; the user may cancel them.
OPEN_JOBS = text(
    "select job_id from public.quel_production_jobs where job_status in ('pending', 'processing') "
    "order by created_at limit :most"
)
#: Jobs that somebody should be working on: pending for long, or processing under a lease of ours that has run out.
#: A job in processing without any lease row belongs to another worker on the same list.
STRANDED_JOBS = text(
    """
    select j.job_id from public.quel_production_jobs j
    left join quel_dagster.job_lease l using (job_id)
    where (j.job_status = 'pending' and l.job_id is null
           and greatest(j.created_at, j.updated_at) < now() - make_interval(secs => :seconds))
       or (j.job_status in ('pending', 'processing')
           and l.expires_at < clock_timestamp() - make_interval(secs => :grace))
    order by j.created_at limit :most
    """
)

#: Who pays for a job, and what they have (domain.md §8): the organization while active, else the member.
#: The member is the claimed user if that is an existing member, else the job's own.
_PAYER = """
    select m.quel_member_id as member_id, m.quel_member_credit as member_credit,
           o.org_id as org_id, o.org_credit as org_credit
    from (select 1) one
    left join lateral (
        select quel_member_id, quel_member_credit from public.quel_member
        where quel_member_id in (cast(:claimed_id as uuid), cast(:job_member_id as uuid))
        order by quel_member_id = cast(:claimed_id as uuid) desc nulls last limit 1
    ) m on true
    left join public.quel_organization o
        on o.org_id = cast(:org_id as uuid) and o.org_status = 'active'
    """
PAYER = text(_PAYER)
#: The payer, and what came of beginning; null when the payer cannot pay for a picture and nothing was begun.
BEGIN_JOB = text(
    f"""
    with payer as ({_PAYER})
    select *, case
        when member_id is not null and case when org_id is null then member_credit else org_credit end >= :price
        then quel_dagster.begin_job(:job_id, :token)
    end as answer
    from payer
    """  # noqa: S608  nothing of outside is in it
)

FIND_ATTACHES = text(
    "select attach_id, attach_file_path as file_path, attach_directory as directory "
    "from public.quel_attach where attach_id = any(cast(:attach_ids as bigint[]))"
)

#: What the queue sensor has to know of the ids that it claimed: which exist, and what to tag their runs with.
DESCRIBE_JOBS = text(
    """
    select j.job_id, j.production_id, j.job_type, j.job_status::text as job_status, j.total_images,
           coalesce(j.quel_member_id, p.quel_member_id) as member_id, j.org_id,
           coalesce(j.quel_production_path, p.quel_production_path) as production_path
    from public.quel_production_jobs j
    join public.quel_production_photo p using (production_id)
    where j.job_id = any(cast(:job_ids as uuid[]))
    """
)

#: One job as `quel status` shows it, with what it was charged.
JOB_REPORT = text(
    """
    select j.job_id, j.production_id, j.job_type, j.job_status::text as status, j.total_images,
           j.completed_images, j.failed_images, j.generated_attach_ids, j.error_message, j.retry_count,
           j.created_at, j.started_at, j.completed_at, j.org_id,
           coalesce(j.quel_member_id, p.quel_member_id) as member_id,
           coalesce(j.quel_production_path, p.quel_production_path) as production_path,
           p.production_status::text as production_status, p.attach_ids as production_attach_ids,
           (select coalesce(-sum(c.amount), 0) from public.quel_credits c
            where c.transaction_type = 'DEDUCT'
              and c.attach_idx in (select attach_id from quel_dagster.attach_ids(j.generated_attach_ids))) as credits
    from public.quel_production_jobs j
    join public.quel_production_photo p using (production_id)
    where j.job_id = any(cast(:job_ids as uuid[]))
    """
)

#: One job as it is read for planning, without claiming it.
FIND_JOB = text(
    """
    select j.job_id, j.production_id, j.job_type, coalesce(j.job_status::text, 'pending') as job_status,
           j.total_images, j.job_input_data as input_data, coalesce(j.quel_member_id, p.quel_member_id) as member_id,
           j.org_id, coalesce(j.quel_production_path, p.quel_production_path) as production_path, j.created_at,
           j.stage_index
    from public.quel_production_jobs j
    join public.quel_production_photo p using (production_id)
    where j.job_id = :job_id
    """
)

JOB_PICTURES = text(
    """
    select i.attach_id, a.attach_file_path as key, a.attach_file_size as size, c.amount, c.balance_after, c.org_id
    from public.quel_production_jobs j
    cross join lateral quel_dagster.attach_ids(j.generated_attach_ids) i
    left join public.quel_attach a on a.attach_id = i.attach_id
    left join public.quel_credits c on c.attach_idx = i.attach_id and c.transaction_type = 'DEDUCT'
    where j.job_id = :job_id order by i.place
    """
)

#: Jobs as `quel list` shows them, newest first; a filter that is NULL lets everything pass. A path that is none of
#: the five categories counts as fashion, as in planning (domain.md §4).
LIST_JOBS = text(
    """
    with jobs as (
        select j.job_id, j.job_type, coalesce(j.job_status::text, 'pending') as status, j.total_images,
               coalesce(j.completed_images, 0) as completed_images, coalesce(j.failed_images, 0) as failed_images,
               j.created_at, j.started_at, j.completed_at, j.error_message, j.org_id, p.production_name,
               coalesce(j.quel_member_id, p.quel_member_id) as member_id,
               lower(coalesce(j.quel_production_path, p.quel_production_path)) as path
        from public.quel_production_jobs j
        join public.quel_production_photo p using (production_id)
    ), named as (
        select *, case when path in ('beauty', 'eats', 'cinema', 'cartoon') then path else 'fashion' end as category
        from jobs
    )
    select * from named
    where (cast(:statuses as text[]) is null or status = any(cast(:statuses as text[])))
      and (cast(:category as text) is null or category = cast(:category as text))
      and (cast(:member_id as uuid) is null or member_id = cast(:member_id as uuid))
      and (cast(:org_id as uuid) is null or org_id = cast(:org_id as uuid))
      and (cast(:since as timestamptz) is null or created_at >= cast(:since as timestamptz))
    order by created_at desc, job_id limit :most
    """
)

#: Everything that the database knows of one job, as JSON: the rows whole, who would pay, who works on it.
JOB_FILE = text(
    """
    select to_jsonb(j) as job, to_jsonb(p) as production,
           (select jsonb_build_object('org_id', o.org_id, 'name', o.org_name, 'status', o.org_status,
                                      'credit', o.org_credit)
            from public.quel_organization o where o.org_id = j.org_id) as organization,
           (select jsonb_build_object('member_id', m.quel_member_id, 'name', m.quel_name,
                                      'status', m.quel_member_status, 'credit', m.quel_member_credit)
            from public.quel_member m
            where m.quel_member_id = coalesce(j.quel_member_id, p.quel_member_id)) as member,
           (select to_jsonb(l) || jsonb_build_object(
                'seconds_left', round(extract(epoch from l.expires_at - clock_timestamp())::numeric, 1))
            from quel_dagster.job_lease l where l.job_id = j.job_id) as lease,
           (select c.seen_at from quel_dagster.job_cancel c where c.job_id = j.job_id) as cancel_kept_at,
           array(select r.recovered_at from quel_dagster.job_recovery r where r.job_id = j.job_id
                 order by r.recovered_at) as recovered_at
    from public.quel_production_jobs j
    join public.quel_production_photo p using (production_id)
    where j.job_id = :job_id
    """
)

#: What the generate steps of these runs said, without the pictures; oldest first.
UNIT_OUTCOMES = text(
    """
    select run_id, value - 'made' as outcome from quel_dagster.op_output
    where run_id = any(cast(:run_ids as text[])) and value ? 'unit' and value ? 'failed'
    order by created_at
    """
)

#: The server, and who we are there.
SERVER_FACTS = text(
    """
    select current_setting('server_version') as version, current_setting('server_version_num')::int as version_num,
           current_setting('transaction_read_only') = 'on' or pg_is_in_recovery() as read_only,
           current_user as role, clock_timestamp() as clock,
           current_setting('max_connections')::int as max_connections,
           (select count(*) from pg_stat_activity where backend_type = 'client backend') as connections,
           has_database_privilege(current_database(), 'create') as may_create_schema,
           to_regnamespace('quel_dagster') is not null as has_own_schema
    """
)
#: The columns of tables in schema public.
TABLE_COLUMNS = text(
    """
    select c.relname as table_name, a.attname as column_name, format_type(a.atttypid, a.atttypmod) as type
    from pg_class c
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relnamespace = 'public'::regnamespace and c.relname = any(cast(:tables as text[]))
    order by c.relname, a.attnum
    """
)
#: The labels of the enums in schema public.
ENUM_LABELS = text(
    """
    select t.typname as enum_name, array_agg(e.enumlabel::text order by e.enumsortorder) as labels
    from pg_type t join pg_enum e on e.enumtypid = t.oid
    where t.typnamespace = 'public'::regnamespace group by t.typname
    """
)
#: What we may do with tables in schema public that exist; `filtered`: row security hides rows from us.
TABLE_PRIVILEGES = text(
    """
    select c.relname as table_name, row_security_active(c.oid) as filtered,
           array(select lower(p) from unnest(array['SELECT', 'INSERT', 'UPDATE']) p
                 where has_table_privilege(c.oid, p)) as granted
    from pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relname = any(cast(:tables as text[]))
    """
)

#: As the web app does on Generate: the production first, then its job (domain.md §2).
INSERT_PRODUCTION = text(
    """
    insert into public.quel_production_photo
        (quel_member_id, production_name, pipeline_type, stage_count, total_quantity, quel_production_path)
    values (:member_id, :name, :job_type, :stage_count, :total_images, :path)
    returning production_id
    """
)
INSERT_JOB = text(
    """
    insert into public.quel_production_jobs
        (production_id, job_type, stage_index, stage_name, batch_index, total_images, job_input_data,
         quel_member_id, org_id, estimated_credits, quel_production_path)
    values (:production_id, :job_type, :stage_index, :stage_name, :batch_index, :total_images, :input_data,
            :member_id, :org_id, :estimated_credits, :path)
    returning job_id
    """
)
FIND_MEMBER_BY_EMAIL = text("select quel_member_id from public.quel_member where quel_email = :email limit 1")
INSERT_MEMBER = text(
    "insert into public.quel_member (quel_email, quel_name, provider, provider_sub, quel_member_credit) "
    "values (:email, :name, 'sandbox', :email, :credit) returning quel_member_id"
)
INSERT_ORGANIZATION = text(
    "insert into public.quel_organization (org_name, org_credit, owner_id) "
    "values (:name, :credit, :owner_id) returning org_id"
)
INSERT_ORGANIZATION_MEMBER = text(
    "insert into public.quel_organization_member (org_id, member_id, role) values (:org_id, :member_id, 'owner')"
)
#: An uploaded reference picture, as the web app stores it.
INSERT_ATTACH = text(
    """
    insert into public.quel_attach
        (attach_original_name, attach_file_name, attach_file_path, attach_file_size, attach_file_type,
         attach_directory, attach_storage_type)
    values (:name, :name, :path, :size, :mime_type, :path, :storage)
    returning attach_id
    """
)
#: Pictures of the sandbox carry ids like those of domain.md §4: references from 39070, results after them.
START_ATTACH_IDS_AT = "alter table public.quel_attach alter column attach_id restart with {first:d}"

BALANCES = text(
    "select (select org_credit from public.quel_organization where org_id = cast(:org_id as uuid)) as org_credit, "
    "(select quel_member_credit from public.quel_member where quel_member_id = cast(:member_id as uuid)) "
    "as member_credit"
)

WRITE_OP_OUTPUT = text(
    "insert into quel_dagster.op_output (run_id, step_key, output, mapping_key, value) "
    "values (:run_id, :step_key, :output, :mapping_key, :value) "
    "on conflict (run_id, step_key, output, mapping_key) do update set value = excluded.value, created_at = now()"
)
READ_OP_OUTPUT = text(
    "select value from quel_dagster.op_output "
    "where run_id = :run_id and step_key = :step_key and output = :output and mapping_key = :mapping_key"
)


def with_json(statement: TextClause, *names: str) -> TextClause:
    """The statement with these parameters sent as jsonb."""
    return statement.bindparams(*(bindparam(name, type_=JSONB) for name in names))
