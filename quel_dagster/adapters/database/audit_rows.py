"""The audit's queries on jobs, pictures and productions, I5 to I14."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import text

from quel_dagster.adapters.database.audit import listing, question
from quel_dagster.adapters.database.kinds import foreign_kind
from quel_dagster.jobs.model import JobStatus, Value

#: I5. A job with a `total_images` that is not positive plans what its input names: no limit here (domain.md §4).
#: After a cancel only pictures that failed for a reason of their own count as failed.
JOBS_COUNT_RIGHT = question(
    """
, counted as (
    select j.job_id, j.status, j.completed_images as completed, j.failed_images as failed, j.total_images,
           count(i.attach_id) as n, count(distinct i.attach_id) as different
    from jobs j left join lateral quel_dagster.attach_ids(j.generated_attach_ids) i on true
    group by 1, 2, 3, 4, 5
), looked_at as (
    select count(*) as n from counted
), found as (
    select k.kind, jsonb_build_object('job', c.job_id, 'n', c.n, 'different', c.different, 'completed', c.completed,
                                      'failed', c.failed, 'total', c.total_images) as facts
    from counted c
    cross join lateral (values
        ('repeated', c.n <> c.different),
        ('miscounted', c.n <> c.completed),
        ('too_many', c.total_images > 0 and c.n > c.total_images),
        ('failed', c.total_images > 0 and case
            when c.status in ('completed', 'failed') then c.failed <> greatest(0, c.total_images - c.n)
            when c.status in ('cancelled', 'user_cancelled')
                then not c.failed between 0 and greatest(0, c.total_images - c.n)
            else false end)
    ) as k (kind, broken)
    where k.broken
    union all
    select 'no_id', jsonb_build_object('job', j.job_id, 'item', left(items.item #>> '{}', 40))
    from jobs j
    cross join lateral jsonb_array_elements(case when jsonb_typeof(j.generated_attach_ids) = 'array'
                                                 then j.generated_attach_ids else '[]' end) as items (item)
    where not exists (select 1 from quel_dagster.attach_ids(jsonb_build_array(items.item)))
    union all
    select 'no_list', jsonb_build_object('job', j.job_id, 'item', jsonb_typeof(j.generated_attach_ids))
    from jobs j where jsonb_typeof(j.generated_attach_ids) not in ('array', 'null')
)
"""
)

#: I6. One scan of quel_attach finds the generated rows, by key: there is no index on the path. A picture's key is the
#: one that its slot reserved; another worker's lies in the folder of its member.
ROWS_AND_JOBS_MATCH = question(
    r"""
, generated as (
    select attach_id, attach_file_path as key, created_at,
           substring(attach_file_path from '([0-9a-f-]{36})_u\d{4,}_p\d{4,}(_[0-9a-f]+)?\.webp$') as job_id
    from public.quel_attach
    where attach_file_path like 'generated-images/%'
), named as (
    -- a row of another worker does not say which job it is of
    select * from generated
    where (cast(:since as timestamptz) is null or created_at >= cast(:since as timestamptz))
      and (cast(:job_ids as uuid[]) is null or job_id = any(cast(:job_ids as text[])))
), keys as (
    select i.job_id, i.attach_id, a.attach_id is not null as present,
           coalesce(nullif(btrim(a.attach_file_path), ''), nullif(btrim(a.attach_directory), '')) as key,
           a.attach_file_path as path, a.attach_directory as directory
    from ids i left join public.quel_attach a on a.attach_id = i.attach_id
), placed as (
    select k.*, w.object_key, p.member_id
    from keys k join own w on w.job_id = k.job_id and w.attach_id = k.attach_id join payers p on p.job_id = k.job_id
    where k.present and k.key like 'generated-images/%'
), twice as (
    select key, string_agg(attach_id::text, ', ' order by attach_id) as attach_ids, array_agg(attach_id) as every
    from generated group by key having count(*) > 1
), looked_at as (
    select (select count(*) from ids) + (select count(*) from named) as n
), found as (
    select 'no_row' as kind, jsonb_build_object('job', job_id, 'attach', attach_id) as facts
    from keys where not present
    union all
    select 'same_key', jsonb_build_object('attach', attach_ids, 'key', key)
    from twice where every && array(select attach_id from keys)
    union all
    -- a key that two rows share is reported above
    select 'moved', jsonb_build_object('job', job_id, 'attach', attach_id, 'key', key,
                                       'stored', coalesce(object_key, 'none'))
    from placed
    where not key in (select key from twice) and (
        path is distinct from object_key or directory is distinct from object_key) and object_key is not null
    union all
    select 'another', jsonb_build_object('job', job_id, 'attach', attach_id, 'key', key,
                                         'owner', 'member ' || coalesce(member_id::text, 'none'))
    from placed
    where (object_key is null or key = object_key) and not key in (select key from twice)
      and (not key like 'generated-images/user-' || coalesce(member_id::text, '') || '/%'
           or substring(key from '([0-9a-f-]{36})_u\d{4,}_p\d{4,}(_[0-9a-f]+)?\.webp$') <> job_id::text)
    union all
    select 'no_job', jsonb_strip_nulls(jsonb_build_object('attach', n.attach_id, 'key', n.key, 'job', n.job_id))
    from named n where not exists (select 1 from all_ids a where a.attach_id = n.attach_id)
)
"""
)

#: I7. A production takes over the ids of a job when the job ends. That earlier ids are kept needs no history: an id
#: that its job lost as well is found by I4 and I6. Status and count follow from its jobs once all have ended.
PRODUCTIONS_HOLD_THEIR_PICTURES = question(
    """
, shown as (
    select p.production_id, i.attach_id
    from public.quel_production_photo p cross join lateral quel_dagster.attach_ids(p.attach_ids) i
    where p.production_id in (select production_id from jobs)
), photos as (
    select p.production_id, p.attach_ids, p.production_status::text as status,
           coalesce(p.generated_image_count, 0) as counted, ends.every,
           (select count(distinct i.attach_id)
            from public.quel_production_jobs j cross join lateral quel_dagster.attach_ids(j.generated_attach_ids) i
            where j.production_id = p.production_id) as n,
           case when 'completed' = any (ends.every) then 'completed'
                when 'user_cancelled' = any (ends.every) then 'user_cancelled' else 'failed' end as expected
    from public.quel_production_photo p
    cross join lateral (
        select array_agg(distinct coalesce(j.job_status::text, 'pending')) as every
        from public.quel_production_jobs j where j.production_id = p.production_id
    ) ends
    where p.production_id in (select production_id from jobs)
), looked_at as (
    select count(*) as n from photos
), found as (
    select 'repeated' as kind, jsonb_build_object('production', production_id, 'attach', attach_id) as facts
    from shown group by production_id, attach_id having count(*) > 1
    union all
    select 'missing', jsonb_build_object('production', i.production_id, 'attach', i.attach_id, 'job', i.job_id)
    from ids i join jobs j using (job_id)
    where j.status not in ('pending', 'processing')
      and not exists (
          select 1 from shown s where s.production_id = i.production_id and s.attach_id = i.attach_id)
    union all
    select k.kind, jsonb_build_object('production', p.production_id, 'counted', p.counted, 'n', p.n,
                                      'status', p.status, 'expected', p.expected)
    from photos p
    cross join lateral (values ('count', p.counted <> p.n), ('status', p.status is distinct from p.expected)
    ) as k (kind, broken)
    where k.broken and not p.every && array['pending', 'processing']
    union all
    select 'no_id', jsonb_build_object('production', p.production_id, 'item', left(items.item #>> '{}', 40))
    from photos p
    cross join lateral jsonb_array_elements(case when jsonb_typeof(p.attach_ids) = 'array'
                                                 then p.attach_ids else '[]' end) as items (item)
    where not exists (select 1 from quel_dagster.attach_ids(jsonb_build_array(items.item)))
)
"""
)

#: I8
PICTURES_HAVE_ONE_JOB = question(
    """
, looked_at as (
    select count(distinct attach_id) as n from ids
), found as (
    select 'shared' as kind,
           jsonb_build_object('attach', attach_id, 'jobs', string_agg(distinct job_id::text, ', ')) as facts
    from all_ids where attach_id in (select attach_id from ids)
    group by attach_id having count(distinct job_id) > 1
    union all
    select 'moved', jsonb_build_object('attach', i.attach_id, 'job', i.job_id, 'of', s.job_id)
    from ids i join quel_dagster.picture_slot s on s.attach_id = i.attach_id and s.job_id <> i.job_id
    where not exists (select 1 from all_ids a where a.attach_id = i.attach_id and a.job_id = s.job_id)
)
"""
)

#: I9. The plan is what was asked: a job that made less says why.
ENDS_ARE_COMPLETE = question(
    """
, ended as (
    select j.*, (select count(*) from quel_dagster.attach_ids(j.generated_attach_ids)) as made
    from jobs j where j.status not in ('pending', 'processing')
), looked_at as (
    select count(*) as n from ended
), found as (
    select k.kind, jsonb_build_object('job', e.job_id, 'status', e.status,
                                      'n', e.made, 'total', e.total_images) as facts
    from ended e
    cross join lateral (values
        ('no_time', e.completed_at is null),
        ('empty', e.status = 'completed' and e.made = 0),
        ('unexplained', e.status in ('completed', 'failed') and e.error_message is null
                        and (e.made < e.total_images or e.status = 'failed'))
    ) as k (kind, broken)
    where k.broken
)
"""
)

#: I13. The cancel was kept, and the job ended, under the lock of the job that a commit takes too, by the same clock. A
#: picture that was refunded since is settled.
NOTHING_AFTER_CANCEL = question(
    """
, cancelled as (
    select j.job_id, least(c.seen_at, case when j.status = 'user_cancelled' then j.completed_at end) as at
    from jobs j left join quel_dagster.job_cancel c on c.job_id = j.job_id
    where j.status = 'user_cancelled' or c.job_id is not null
), looked_at as (
    select count(*) as n from cancelled
), found as (
    select 'late' as kind,
           jsonb_build_object('job', k.job_id, 'attach', i.attach_id, 'cancelled', k.at,
                              'committed', greatest(a.created_at, max(l.created_at))) as facts
    from cancelled k
    join ids i on i.job_id = k.job_id
    left join public.quel_attach a on a.attach_id = i.attach_id
    left join public.quel_credits l on l.attach_idx = i.attach_id and l.transaction_type = 'DEDUCT'
    where not exists (
        select 1 from public.quel_credits r where r.attach_idx = i.attach_id and r.transaction_type = 'refund')
    group by k.job_id, i.attach_id, k.at, a.created_at
    having greatest(a.created_at, max(l.created_at)) > k.at
)
"""
)

#: I10, I11. Jobs for this project that have not ended, with their lease, and for how many seconds nothing happened.
OPEN_JOBS = listing(
    f"""
select j.job_id, j.status, l.run_id, coalesce(l.expires_at > clock_timestamp(), false) as lease_is_live,
       extract(epoch from clock_timestamp() - l.claimed_at)::float8 as lease_age,
       extract(epoch from clock_timestamp()
               - greatest(j.created_at, j.started_at, j.updated_at, l.expires_at))::float8 as silence
from jobs j left join quel_dagster.job_lease l on l.job_id = j.job_id
where j.status in ('pending', 'processing') and not exists (
    select 1 from public.quel_production_jobs r join public.quel_production_photo p using (production_id)
    where r.job_id = j.job_id and {foreign_kind("r")} is not null)
order by j.job_id
"""  # noqa: S608  nothing of outside is in it
)

#: I12. The pictures of jobs, with where they lie; a random sample of `sample` of them, if it is given.
STORED_PICTURES = listing(
    """
select i.job_id, a.attach_id, a.attach_file_path as path, a.attach_directory as directory,
       coalesce(s.size, a.attach_file_size) as size, s.sha256
from ids i join public.quel_attach a on a.attach_id = i.attach_id
left join quel_dagster.picture_slot s on s.attach_id = i.attach_id
where cast(:attach_ids as bigint[]) is null or a.attach_id = any(cast(:attach_ids as bigint[]))
order by case when cast(:sample as int) is null then 0 else random() end, a.attach_id
limit cast(:sample as int)
"""
)

#: I12. The folders of the members that these jobs' pictures lie in.
PICTURE_FOLDERS = listing("select distinct member_id from payers where member_id is not null order by 1")

#: I12. Of these keys of objects, those that neither a picture nor anything in motion explains: an open slot's object
#: waits for its commit, an orphan's for its deletion.
UNEXPLAINED_KEYS = text(
    """
with known as (
    select attach_file_path as key from public.quel_attach where attach_file_path like 'generated-images/%'
    union all
    select attach_directory from public.quel_attach where attach_directory like 'generated-images/%'
    union all
    select object_key from quel_dagster.picture_slot
    union all
    select object_key from quel_dagster.orphan_object
)
select o.key from unnest(cast(:keys as text[])) as o (key)
where not exists (select 1 from known k where k.key = o.key) order by o.key
"""
)

#: I14. Jobs that have ended, and when.
ENDED_JOBS = listing(
    """
select job_id, status, extract(epoch from completed_at)::float8 as completed_at
from jobs where status not in ('pending', 'processing')
"""
)


class OpenJob(Value):
    """A row of OPEN_JOBS."""

    job_id: UUID
    status: JobStatus
    #: of the lease, also of an expired one; None: there is none
    run_id: str | None
    lease_is_live: bool
    #: seconds since the claim
    lease_age: float | None
    #: seconds since the last change of the job or its lease
    silence: float


class AuditedPicture(Value):
    """A row of STORED_PICTURES."""

    job_id: UUID
    attach_id: int
    path: str | None
    directory: str | None
    #: bytes, as recorded
    size: int | None
    #: of its slot; None: made by another worker
    sha256: str | None


class EndedJob(Value):
    """A row of ENDED_JOBS."""

    job_id: UUID
    status: JobStatus
    #: seconds since the epoch
    completed_at: float | None
