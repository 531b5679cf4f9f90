"""Statements that read the rows which the model is compared with."""

JOBS = """
select j.job_id, j.job_status::text as status, j.completed_images, j.failed_images, j.completed_at, j.error_message,
       array(select i.attach_id from quel_dagster.attach_ids(j.generated_attach_ids) i order by i.place) as ids,
       s.in_order, s.slots, s.reserved,
       array(select o.object_key from quel_dagster.orphan_object o where o.job_id = j.job_id) as orphans,
       (select count(*) from quel_credits c
        where c.attach_idx = any(s.in_order) and c.transaction_type = 'DEDUCT' and c.amount = -20
          and c.production_idx = j.production_id and c.user_id = j.quel_member_id
          and c.org_id is not distinct from j.org_id) as charged,
       (select count(*) from quel_credits c
        where c.attach_idx = any(s.in_order) and c.transaction_type = 'refund') as refunds,
       coalesce((select d.deaths from quel_dagster.job_death d where d.job_id = j.job_id), 0) as deaths,
       (select jsonb_build_array(l.token, l.run_id, l.worker, l.expires_at > clock_timestamp(), l.handed_over,
                                 l.probation)
        from quel_dagster.job_lease l where l.job_id = j.job_id) as lease
from quel_production_jobs j cross join lateral (
    select coalesce(array_agg(s.attach_id order by s.unit, s.number) filter (where s.attach_id is not null), '{}')
           as in_order,
           coalesce(jsonb_object_agg(s.unit || '/' || s.number, a.attach_file_path)
                    filter (where s.attach_id is not null), '{}') as slots,
           coalesce(jsonb_object_agg(s.unit || '/' || s.number, s.object_key) filter (where s.attach_id is null), '{}')
           as reserved
    from quel_dagster.picture_slot s left join quel_attach a using (attach_id) where s.job_id = j.job_id
) s
where j.job_id = any(%(jobs)s)
"""
BALANCES = """
select m.quel_member_id as id, m.quel_member_credit as balance,
       array_remove(array_agg(c.amount order by c.created_at, c.id), null) as amounts,
       array_remove(array_agg(c.balance_after order by c.created_at, c.id), null) as balances
from quel_member m left join quel_credits c on c.user_id = m.quel_member_id and c.org_id is null
where m.quel_member_id = any(%(payers)s) group by m.quel_member_id
union all
select o.org_id, o.org_credit, array_remove(array_agg(c.amount order by c.created_at, c.id), null),
       array_remove(array_agg(c.balance_after order by c.created_at, c.id), null)
from quel_organization o left join quel_credits c using (org_id)
where o.org_id = any(%(payers)s) group by o.org_id
"""
PRODUCTIONS = """
select p.production_id, p.production_status::text as status, p.generated_image_count as count,
       array(select a.attach_file_path from quel_dagster.attach_ids(p.attach_ids) i join quel_attach a using (attach_id)
             order by i.place) as pictures
from quel_production_photo p where p.production_id = any(%(productions)s)
"""
#: All of them in one answer: a step costs one round trip.
EVERYTHING = f"""
select coalesce((select jsonb_agg(to_jsonb(r)) from ({JOBS}) r), '[]') as jobs,
       coalesce((select jsonb_agg(to_jsonb(r)) from ({PRODUCTIONS}) r), '[]') as productions,
       coalesce((select jsonb_agg(to_jsonb(r)) from ({BALANCES}) r), '[]') as balances
"""  # noqa: S608
#: Take away what an example made, given its payers (members and organizations): the ledger has no index on the
#: pictures, so that every statement would become slower with each example.
FORGET = (
    "delete from quel_dagster.orphan_object o using quel_production_jobs j"
    " where j.job_id = o.job_id and j.quel_member_id = any(%(members)s)",
    "delete from quel_dagster.job_lease l using quel_production_jobs j"
    " where j.job_id = l.job_id and j.quel_member_id = any(%(members)s)",
    "delete from quel_dagster.job_death d using quel_production_jobs j"
    " where j.job_id = d.job_id and j.quel_member_id = any(%(members)s)",
    "delete from quel_dagster.job_cancel c using quel_production_jobs j"
    " where j.job_id = c.job_id and j.quel_member_id = any(%(members)s)",
    "delete from quel_credits where user_id = any(%(members)s)",
    "with mine as (delete from quel_dagster.picture_slot s using quel_production_jobs j"
    " where j.job_id = s.job_id and j.quel_member_id = any(%(members)s) returning s.attach_id)"
    " delete from quel_attach a using mine where a.attach_id = mine.attach_id",
    "delete from quel_production_photo where quel_member_id = any(%(members)s)",
    "delete from quel_organization where owner_id = any(%(members)s)",
    "delete from quel_member where quel_member_id = any(%(members)s)",
)
