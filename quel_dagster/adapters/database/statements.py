"""The statements of one run's work, for `work` and `lease`: calls of the functions of `migrations/`, and leases."""

from __future__ import annotations

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import JSONB

#: deaths of a job's processes without one picture more, while other processes die too, until the job is given up
MOST_DEATHS_ELSEWHERE = 20
CLAIM_JOB = text(
    "select coalesce(quel_dagster.claim_job_v3(:job_id, :run_id, cast(:retry_of as text[]), :worker, :seconds, "
    f"p_deaths_elsewhere => {MOST_DEATHS_ELSEWHERE}), jsonb_build_object('outcome', 'missing')) as answer"
)
BEGIN_JOB = text("select quel_dagster.begin_job_v2(:job_id, :token, :price) as answer")
RESERVE_SLOT = text("select quel_dagster.reserve_slot_v1(:job_id, :token, :unit, :number, :key, :price) as answer")
RELEASE_SLOT = text("select quel_dagster.release_slot_v1(:job_id, :token, :unit, :number, :stored)")
COMMIT_PICTURE = text(
    "select quel_dagster.commit_picture_v3(:job_id, :token, :unit, :number, :key, :size, :sha256, :storage, :price, "
    ":total, cast(:usage as jsonb)) as answer"
)
SETTLE_JOB = text(
    "select quel_dagster.settle_job_v2(:job_id, :token, :status, :total, :error, :note, :failed, :inputs) as answer"
)
OPERATORS_CANCEL = text("select 1 from quel_dagster.job_cancel where job_id = :job_id and actor is not null")
LIFT_OPERATORS_CANCEL = text("delete from quel_dagster.job_cancel where job_id = :job_id and actor is not null")
KEEP_CANCEL = text("select quel_dagster.keep_cancel_v2(:job_id, cast(:actor as text), cast(:reason as text))")
PAYER = text("select * from quel_dagster.payer_v1(:job_id)")

#: Objects that may be deleted: noted long enough ago, and no picture of a job has the key.
ORPHANS = text(
    "select o.object_key from quel_dagster.orphan_object o "
    "where o.noted_at < clock_timestamp() - make_interval(secs => :seconds) and not exists "
    "(select 1 from quel_dagster.picture_slot s where s.object_key = o.object_key) "
    "order by o.noted_at limit :most"
)
FORGET_ORPHANS = text("delete from quel_dagster.orphan_object where object_key = any(cast(:keys as text[]))")

#: Renew many leases by the database's clock; a job that is missing from the answer has lost its lease. A lease that a
#: transaction of its job holds locked is left for the next time: no job waits for another's commit here.
RENEW_LEASES = text(
    "with held as materialized (select l.job_id from quel_dagster.job_lease l "
    "join unnest(cast(:job_ids as uuid[]), cast(:tokens as bigint[])) as mine (job_id, token) using (job_id, token)), "
    "free as materialized (select l.job_id from quel_dagster.job_lease l "
    "where l.job_id in (select job_id from held) for update skip locked), "
    "renewed as (update quel_dagster.job_lease l "
    "set expires_at = clock_timestamp() + make_interval(secs => :seconds) "
    "from free, unnest(cast(:job_ids as uuid[]), cast(:tokens as bigint[])) as mine (job_id, token) "
    "where l.job_id = free.job_id and l.job_id = mine.job_id and l.token = mine.token "
    "and not l.handed_over) "  # committed by the run that closes, while this statement was under way
    "select job_id from held"
)
#: Release a lease before the job's end: the row stays, so that the sweep knows that a run of this project had it.
EXPIRE_LEASE = text(
    "update quel_dagster.job_lease set expires_at = clock_timestamp(), handed_over = true "
    "where job_id = :job_id and token = :token"
)
#: Likewise, with the reason why PostgreSQL refused to write the job's rows.
NOTE_TROUBLE = text(
    "update quel_dagster.job_lease set expires_at = clock_timestamp(), handed_over = true, trouble = :trouble "
    "where job_id = :job_id and token = :token"
)
RELEASE_LEASE = text("delete from quel_dagster.job_lease where job_id = :job_id and token = :token")

#: The runs that hold a live lease; for the launcher.
RUNS_WITH_LIVE_LEASES = text("select run_id from quel_dagster.job_lease where expires_at > clock_timestamp()")

#: The status of an ended job; NULL while it is open. For the daemon, before it makes a retry that has waited.
JOB_END = text(
    "select case when job_status in ('pending', 'processing') then null else job_status::text end "
    "from public.quel_production_jobs where job_id = :job_id"
)

FIND_ATTACHES = text(
    "select attach_id, attach_file_path as file_path, attach_directory as directory "
    "from public.quel_attach where attach_id = any(cast(:attach_ids as bigint[]))"
)

WRITE_OP_OUTPUTS = text(
    "insert into quel_dagster.op_output (run_id, step_key, output, mapping_key, value) "
    "select run_id, step_key, output, mapping_key, value from jsonb_to_recordset(:outputs) "
    "as given (run_id text, step_key text, output text, mapping_key text, value jsonb) "
    "on conflict (run_id, step_key, output, mapping_key) do update set value = excluded.value, created_at = now()"
).bindparams(bindparam("outputs", type_=JSONB))
READ_OP_OUTPUT = text(
    "select value from quel_dagster.op_output "
    "where run_id = :run_id and step_key = :step_key and output = :output and mapping_key = :mapping_key"
)
