-- oldest-code: 1
--
-- A row for each picture of a job (its slot), reserved before Gemini is called and filled by the commit. The primary
-- key is the guarantee that no picture is made into a job twice, whatever becomes of the web app's columns.
--
-- A function of this file is a contract with running workers: its name carries a version, and a new version gets a
-- new name. The functions of 0001 without a version serve workers of before; here they become callers of these.
-- Lock order in every function: job, lease, balance, production.

create table quel_dagster.picture_slot (
    job_id        uuid not null,
    unit          int not null,
    number        int not null,
    -- holds a random part: the address of a picture cannot be computed from its job
    object_key    text not null unique,
    -- who was to pay when the slot was reserved; org_id is set when an organization pays
    member_id     uuid not null,
    org_id        uuid,
    price         int not null,
    -- the lease under which the slot was reserved
    token         bigint not null,
    reserved_at   timestamptz not null default clock_timestamp(),
    -- set by the commit
    attach_id     bigint unique,
    committed_at  timestamptz,
    size          bigint,
    sha256        text,
    primary key (job_id, unit, number)
);
create index picture_slot_open on quel_dagster.picture_slot (coalesce(org_id, member_id)) where attach_id is null;

-- Objects that may be in the store although no picture of a job names them: to be deleted.
create table quel_dagster.orphan_object (
    object_key  text primary key,
    job_id      uuid not null,
    reason      text not null,
    noted_at    timestamptz not null default clock_timestamp()
);

-- Processes that died with this job, one after the other, without one picture more.
create table quel_dagster.job_death (
    job_id    uuid primary key,
    deaths    int not null,
    pictures  int not null,
    last_at   timestamptz not null default clock_timestamp()
);

-- handed_over: given back by its run, so that the next claim counts no death.
-- probation: the only live lease of a job that two processes died with.
alter table quel_dagster.job_lease add column handed_over boolean not null default false;
alter table quel_dagster.job_lease add column probation boolean not null default false;
-- why PostgreSQL refused to write this job's rows: told in its dead letter
alter table quel_dagster.job_lease add column trouble text;

-- actor is null for the user's cancel (the Redis flag), else the operator's name.
alter table quel_dagster.job_cancel add column actor text;
alter table quel_dagster.job_cancel add column reason text;

-- Why a stranded job was pushed again.
alter table quel_dagster.job_recovery add column reason text;

-- Pictures of before: their names hold the slot.
insert into quel_dagster.picture_slot
    (job_id, unit, number, object_key, member_id, org_id, price, token, reserved_at, attach_id, committed_at, size)
select j.job_id, named.slot[1]::int, named.slot[2]::int, a.attach_file_path, c.user_id, c.org_id, -c.amount, 0,
       coalesce(a.created_at, clock_timestamp()), a.attach_id, coalesce(a.created_at, clock_timestamp()),
       a.attach_file_size
from public.quel_production_jobs j
cross join lateral (
    select (item #>> '{}')::bigint as attach_id
    from jsonb_array_elements(case when jsonb_typeof(j.generated_attach_ids) = 'array'
                                   then j.generated_attach_ids else '[]' end) as items (item)
    where (item #>> '{}') ~ '^[0-9]{1,18}$'
) i
join public.quel_attach a on a.attach_id = i.attach_id
cross join lateral (select regexp_match(a.attach_file_name, '_u([0-9]{4,9})_p([0-9]{4,9})\.webp$') as slot) named
join public.quel_credits c on c.attach_idx = a.attach_id and c.transaction_type = 'DEDUCT'
where named.slot is not null and a.attach_file_name like j.job_id::text || '\_%'
on conflict do nothing;

-- The readable ids of a list, in order. An id that a bigint cannot hold is left out: the audit names it.
create or replace function quel_dagster.attach_ids(ids jsonb) returns table (attach_id bigint, place bigint)
language sql immutable as $$
    select read.attach_id, read.place
    from (
        select case when (item #>> '{}') ~ '^[0-9]{1,19}(\.0+)?$' and (item #>> '{}')::numeric <= 9223372036854775807
                    then (item #>> '{}')::numeric::bigint end as attach_id,
               place
        from jsonb_array_elements(case when jsonb_typeof(ids) = 'array' then ids else '[]' end)
             with ordinality as items (item, place)
    ) read
    where read.attach_id is not null
$$;

-- The pictures of a job: those of its slots, and those of another worker that only the job's list names.
-- In slot order after the others, which stay as they came (domain.md §3).
create function quel_dagster.job_pictures_v1(p_job uuid, p_ids jsonb)
returns table (attach_id bigint, unit int, number int, object_key text, place bigint)
language sql stable as $$
    select every.attach_id, every.unit, every.number, every.object_key,
           row_number() over (order by every.unit nulls first, every.number, every.place)
    from (
        select s.attach_id, s.unit, s.number, s.object_key, 0::bigint as place
        from quel_dagster.picture_slot s where s.job_id = p_job and s.attach_id is not null
        union all
        select i.attach_id, null, null, null, min(i.place)
        from quel_dagster.attach_ids(p_ids) i
        where not exists (select 1 from quel_dagster.picture_slot s
                          where s.job_id = p_job and s.attach_id = i.attach_id)
        group by i.attach_id
    ) every
$$;

create function quel_dagster.job_picture_ids_v1(p_job uuid, p_ids jsonb) returns jsonb language sql stable as $$
    select coalesce(jsonb_agg(attach_id order by place), '[]') from quel_dagster.job_pictures_v1(p_job, p_ids)
$$;

-- The member that the browser's JSON names, for jobs whose rows name none.
create function quel_dagster.claimed_member_v1(p_input jsonb) returns uuid language plpgsql immutable as $$
declare
    v_input  jsonb := p_input;
    v_text   text;
begin
    for _ in 1..2 loop
        if jsonb_typeof(v_input) = 'string' then
            begin
                v_input := (v_input #>> '{}')::jsonb;
            exception when others then
                return null;
            end;
        end if;
    end loop;
    if jsonb_typeof(v_input) = 'object' then
        v_text := btrim(v_input ->> 'userId');
        if v_text ~* '^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$' then
            return v_text::uuid;
        end if;
    end if;
    return null;
end $$;

-- Who pays for a job and what they have (domain.md §8): the one home of that rule. `problem` is null, or why
-- the job may not be made: no_member, unknown_member, member_inactive, unknown_organization,
-- organization_inactive, organization_deleted, not_in_organization; `status` is the one that is in the way.
create function quel_dagster.payer_v1(p_job uuid)
returns table (member_id uuid, org_id uuid, balance bigint, problem text, status text)
language sql stable as $$
    select named.member_id, j.org_id,
           case when j.org_id is null then m.quel_member_credit else o.org_credit end,
           case
               when named.member_id is null then 'no_member'
               when m.quel_member_id is null then 'unknown_member'
               when m.quel_member_status <> 'active' then 'member_inactive'
               when j.org_id is null then null
               when o.org_id is null then 'unknown_organization'
               when o.deleted_at is not null then 'organization_deleted'
               when o.org_status <> 'active' then 'organization_inactive'
               when o.owner_id <> named.member_id and not exists (
                   select 1 from public.quel_organization_member om
                   where om.org_id = o.org_id and om.member_id = named.member_id and om.status = 'active'
               ) then 'not_in_organization'
           end,
           case when m.quel_member_status <> 'active' then m.quel_member_status
                when o.org_status <> 'active' then o.org_status end
    from public.quel_production_jobs j
    left join public.quel_production_photo p on p.production_id = j.production_id
    cross join lateral (
        select coalesce(j.quel_member_id, p.quel_member_id,
                        quel_dagster.claimed_member_v1(j.job_input_data)) as member_id
    ) named
    left join public.quel_member m on m.quel_member_id = named.member_id
    left join public.quel_organization o on o.org_id = j.org_id
    where j.job_id = p_job
$$;

-- A payer as JSON, for the answers below.
create function quel_dagster.payer_json_v1(p_job uuid) returns jsonb language sql stable as $$
    select to_jsonb(p) from quel_dagster.payer_v1(p_job) p
$$;

-- Was this job cancelled, and by whom: `user`, `operator`, or null. The user has the last word.
-- An operator's cancel is also a row status `cancelled` that was set while the job was being worked on.
create function quel_dagster.cancelled_by_v1(p_job uuid, p_status text) returns text language sql stable as $$
    select case
        when p_status = 'user_cancelled'
             or exists (select 1 from quel_dagster.job_cancel c where c.job_id = p_job and c.actor is null) then 'user'
        when exists (select 1 from quel_dagster.job_cancel c where c.job_id = p_job) then 'operator'
    end
$$;

-- Forget the open slots of a job. What may lie in the store under their keys is to be deleted.
create function quel_dagster.drop_open_slots_v1(p_job uuid, p_reason text) returns void language sql as $$
    with dropped as (
        delete from quel_dagster.picture_slot where job_id = p_job and attach_id is null returning object_key
    )
    insert into quel_dagster.orphan_object (object_key, job_id, reason)
    select object_key, p_job, p_reason from dropped
    on conflict (object_key) do nothing
$$;

-- Claim the job for a run. Free, expired (by the database's clock alone), already ours, or held by a run that this
-- one retries: a new token. Never changes the web app's row. outcome: claimed, missing, held, or probation (another
-- job that two processes died with is being tried alone; ask again).
--
-- A claim that follows a lease which was neither given back nor handed over, and that lived less than
-- p_death_seconds, counts a death of the job's process. Deaths without one picture more add up; from p_deaths on
-- the claim says `poisoned`. A job that had ended, and is run again, starts at none.
create function quel_dagster.claim_job_v2(
    p_job uuid, p_run text, p_retry_of text[], p_worker text, p_seconds double precision,
    p_deaths int default 3, p_death_seconds double precision default 180
) returns jsonb language plpgsql as $$
declare
    v_job    public.quel_production_jobs;
    v_lease  quel_dagster.job_lease;
    v_token  bigint;
    v_made   int;
    v_dead   int := 0;
begin
    select * into v_job from public.quel_production_jobs where job_id = p_job for update;
    if not found then
        return jsonb_build_object('outcome', 'missing');
    end if;
    select * into v_lease from quel_dagster.job_lease where job_id = p_job for update;
    if found and v_lease.expires_at > clock_timestamp()
       and v_lease.run_id <> p_run and not v_lease.run_id = any (p_retry_of) then
        return jsonb_build_object('outcome', 'held', 'holder', v_lease.run_id, 'worker', v_lease.worker);
    end if;

    if v_job.job_status not in ('pending', 'processing') then
        delete from quel_dagster.job_death where job_id = p_job;
    else
        select deaths into v_dead from quel_dagster.job_death where job_id = p_job;
        v_dead := coalesce(v_dead, 0);
        if v_lease.job_id is not null and not v_lease.handed_over
           and clock_timestamp() - v_lease.claimed_at < make_interval(secs => p_death_seconds) then
            select count(*) into v_made from quel_dagster.picture_slot
            where job_id = p_job and attach_id is not null;
            insert into quel_dagster.job_death as d (job_id, deaths, pictures) values (p_job, 1, v_made)
            on conflict (job_id) do update
                set deaths = case when v_made > d.pictures then 1 else d.deaths + 1 end,
                    pictures = v_made, last_at = clock_timestamp()
            returning d.deaths into v_dead;
        end if;
        if v_dead = p_deaths - 1 then
            perform pg_advisory_xact_lock(7061738);
            if exists (select 1 from quel_dagster.job_lease
                       where probation and expires_at > clock_timestamp() and job_id <> p_job) then
                -- this claim is not to count the same death again when it asks once more
                update quel_dagster.job_lease set handed_over = true, expires_at = least(expires_at, clock_timestamp())
                where job_id = p_job;
                return jsonb_build_object('outcome', 'probation');
            end if;
        end if;
    end if;

    v_token := nextval('quel_dagster.lease_token');
    insert into quel_dagster.job_lease
        (job_id, token, run_id, worker, claimed_at, expires_at, handed_over, probation)
    values (p_job, v_token, p_run, p_worker, clock_timestamp(),
            clock_timestamp() + make_interval(secs => p_seconds), false, v_dead = p_deaths - 1)
    on conflict (job_id) do update
        set token = excluded.token, run_id = excluded.run_id, worker = excluded.worker,
            claimed_at = excluded.claimed_at, expires_at = excluded.expires_at,
            handed_over = false, probation = excluded.probation, trouble = null;
    return jsonb_build_object(
        'outcome', 'claimed',
        'token', v_token,
        'took_over_from', v_lease.run_id,
        -- an operator's cancel has done its work when the job has ended: run again, it is forgotten
        'cancelled_by', (select by from quel_dagster.cancelled_by_v1(p_job, v_job.job_status::text) by
                         where by = 'user' or v_job.job_status in ('pending', 'processing')),
        'deaths', v_dead,
        'poisoned', v_dead >= p_deaths,
        'job', jsonb_build_object(
            'job_id', v_job.job_id,
            'production_id', v_job.production_id,
            'job_type', v_job.job_type,
            'job_status', coalesce(v_job.job_status, 'pending'),
            'total_images', v_job.total_images,
            'input_text', v_job.job_input_data::text,
            'member_id', coalesce(v_job.quel_member_id, p.quel_member_id),
            'org_id', v_job.org_id,
            'production_path', coalesce(v_job.quel_production_path, p.quel_production_path),
            'created_at', v_job.created_at,
            'stage_index', v_job.stage_index),
        'made', (select coalesce(jsonb_agg(jsonb_build_object('attach_id', i.attach_id, 'unit', i.unit,
                                                              'number', i.number) order by i.place), '[]')
                 from quel_dagster.job_pictures_v1(p_job, v_job.generated_attach_ids) i))
    from public.quel_production_photo p where p.production_id = v_job.production_id;
end $$;

-- Enter processing, for a job that has pictures to make and a payer who can pay for one. An ended job that runs
-- again counts as a retry, and forgets an operator's cancel. outcome: begun, lease_lost, cancelled, no_payer,
-- insufficient.
create function quel_dagster.begin_job_v2(p_job uuid, p_token bigint, p_price int) returns jsonb
language plpgsql as $$
declare
    v_job    public.quel_production_jobs;
    v_payer  jsonb;
    v_by     text;
begin
    select * into v_job from public.quel_production_jobs where job_id = p_job for update;
    if not found or not quel_dagster.holds_lease(p_job, p_token) then
        return jsonb_build_object('outcome', 'lease_lost');
    end if;
    if v_job.job_status in ('failed', 'cancelled', 'completed') then
        delete from quel_dagster.job_cancel where job_id = p_job and actor is not null;
    end if;
    v_by := quel_dagster.cancelled_by_v1(p_job, v_job.job_status::text);
    if v_by is not null then
        return jsonb_build_object('outcome', 'cancelled', 'by', v_by);
    end if;
    v_payer := quel_dagster.payer_json_v1(p_job);
    if v_payer ->> 'problem' is not null then
        return jsonb_build_object('outcome', 'no_payer', 'payer', v_payer);
    end if;
    if coalesce((v_payer ->> 'balance')::bigint, 0) < p_price then
        return jsonb_build_object('outcome', 'insufficient', 'payer', v_payer);
    end if;
    update public.quel_production_jobs
    set job_status = 'processing',
        started_at = case when job_status = 'processing' then coalesce(started_at, clock_timestamp())
                          else clock_timestamp() end,
        completed_at = null,
        error_message = null,
        failed_images = 0,
        retry_count = coalesce(retry_count, 0) + case when started_at is null then 0 else 1 end,
        updated_at = clock_timestamp()
    where job_id = p_job;
    update public.quel_production_photo
    set production_status = 'processing'
    where production_id = v_job.production_id and production_status is distinct from 'processing';
    return jsonb_build_object('outcome', 'begun', 'payer', v_payer);
end $$;

-- Reserve a slot before Gemini is called for it, within what the balance covers: what the payer's other slots under
-- live leases will cost is taken already. outcome: reserved, taken (`attach_id`), wait (the credits are reserved for
-- other pictures that are being made: ask again), insufficient, no_payer, lease_lost, cancelled, not_processing.
create function quel_dagster.reserve_slot_v1(
    p_job uuid, p_token bigint, p_unit int, p_number int, p_key text, p_price int
) returns jsonb language plpgsql as $$
declare
    v_job       public.quel_production_jobs;
    v_slot      quel_dagster.picture_slot;
    v_payer     record;
    v_by        text;
    v_balance   bigint;
    v_reserved  bigint;
begin
    select * into v_job from public.quel_production_jobs where job_id = p_job for update;
    if not found or not quel_dagster.holds_lease(p_job, p_token) then
        return jsonb_build_object('outcome', 'lease_lost');
    end if;
    v_by := quel_dagster.cancelled_by_v1(p_job, v_job.job_status::text);
    if v_by is not null then
        return jsonb_build_object('outcome', 'cancelled', 'by', v_by);
    end if;
    if v_job.job_status is distinct from 'processing' then
        return jsonb_build_object('outcome', 'not_processing', 'status', v_job.job_status);
    end if;
    select * into v_slot from quel_dagster.picture_slot
    where job_id = p_job and unit = p_unit and number = p_number;
    if v_slot.attach_id is not null then
        return jsonb_build_object('outcome', 'taken', 'attach_id', v_slot.attach_id);
    end if;
    select * into v_payer from quel_dagster.payer_v1(p_job);
    if v_payer.problem is not null then
        return jsonb_build_object('outcome', 'no_payer', 'payer', to_jsonb(v_payer));
    end if;

    -- The balance row's lock makes the sum below and the balance one look.
    if v_payer.org_id is not null then
        select org_credit into v_balance from public.quel_organization
        where org_id = v_payer.org_id for no key update;
    else
        select quel_member_credit into v_balance from public.quel_member
        where quel_member_id = v_payer.member_id for no key update;
    end if;
    select coalesce(sum(s.price), 0) into v_reserved
    from quel_dagster.picture_slot s
    join quel_dagster.job_lease l on l.job_id = s.job_id and l.token = s.token and l.expires_at > clock_timestamp()
    where coalesce(s.org_id, s.member_id) = coalesce(v_payer.org_id, v_payer.member_id)
      and s.org_id is not distinct from v_payer.org_id
      and s.attach_id is null
      and (s.job_id, s.unit, s.number) <> (p_job, p_unit, p_number);
    if coalesce(v_balance, 0) < p_price then
        return jsonb_build_object('outcome', 'insufficient', 'payer', to_jsonb(v_payer));
    end if;
    if v_balance - v_reserved < p_price then
        return jsonb_build_object('outcome', 'wait', 'payer', to_jsonb(v_payer));
    end if;

    if v_slot.object_key is distinct from p_key and v_slot.job_id is not null then
        insert into quel_dagster.orphan_object (object_key, job_id, reason)
        values (v_slot.object_key, p_job, 'its run was interrupted') on conflict (object_key) do nothing;
    end if;
    insert into quel_dagster.picture_slot (job_id, unit, number, object_key, member_id, org_id, price, token)
    values (p_job, p_unit, p_number, p_key, v_payer.member_id, v_payer.org_id, p_price, p_token)
    on conflict (job_id, unit, number) do update
        set object_key = excluded.object_key, member_id = excluded.member_id, org_id = excluded.org_id,
            price = excluded.price, token = excluded.token, reserved_at = clock_timestamp();
    return jsonb_build_object('outcome', 'reserved', 'payer', to_jsonb(v_payer));
end $$;

-- Give a slot back that got no picture. p_stored: an object may lie under its key, and is to be deleted.
create function quel_dagster.release_slot_v1(
    p_job uuid, p_token bigint, p_unit int, p_number int, p_stored boolean
) returns void language sql as $$
    with released as (
        delete from quel_dagster.picture_slot
        where job_id = p_job and unit = p_unit and number = p_number and token = p_token and attach_id is null
        returning object_key
    )
    insert into quel_dagster.orphan_object (object_key, job_id, reason)
    select object_key, p_job, 'it was not paid for' from released where p_stored
    on conflict (object_key) do nothing
$$;

-- One picture, wholly or not at all: attach row, conditional charge, ledger, slot, progress. Idempotent: a slot that
-- is filled changes nothing, so a call whose answer was lost may be repeated. outcome: stored, taken, lease_lost (also
-- when the slot is not reserved under this token and key), cancelled, not_processing, full, no_payer, insufficient.
create function quel_dagster.commit_picture_v2(
    p_job uuid, p_token bigint, p_unit int, p_number int, p_key text, p_size bigint, p_sha256 text, p_storage text,
    p_price int, p_total int
) returns jsonb language plpgsql as $$
declare
    v_job      public.quel_production_jobs;
    v_slot     quel_dagster.picture_slot;
    v_name     text := regexp_replace(p_key, '^.*/', '');
    v_payer    record;
    v_by       text;
    v_made     int;
    v_attach   bigint;
    v_balance  bigint;
    v_ids      jsonb;
    v_now      timestamptz;
begin
    select * into v_job from public.quel_production_jobs where job_id = p_job for update;
    if not found or not quel_dagster.holds_lease(p_job, p_token) then
        return jsonb_build_object('outcome', 'lease_lost');
    end if;
    select * into v_slot from quel_dagster.picture_slot
    where job_id = p_job and unit = p_unit and number = p_number;
    select count(*) into v_made from quel_dagster.job_pictures_v1(p_job, v_job.generated_attach_ids);
    if v_slot.attach_id is not null then
        return jsonb_build_object('outcome', 'taken', 'attach_id', v_slot.attach_id, 'completed', v_made,
                                  'object_key', v_slot.object_key);
    end if;
    if v_slot.token is distinct from p_token or v_slot.object_key is distinct from p_key then
        return jsonb_build_object('outcome', 'lease_lost');
    end if;
    v_by := quel_dagster.cancelled_by_v1(p_job, v_job.job_status::text);
    if v_by is not null then
        return jsonb_build_object('outcome', 'cancelled', 'by', v_by);
    end if;
    if v_job.job_status is distinct from 'processing' then
        return jsonb_build_object('outcome', 'not_processing', 'status', v_job.job_status);
    end if;
    if v_made >= p_total then
        return jsonb_build_object('outcome', 'full');
    end if;
    select * into v_payer from quel_dagster.payer_v1(p_job);
    if v_payer.problem is not null then
        return jsonb_build_object('outcome', 'no_payer', 'payer', to_jsonb(v_payer));
    end if;

    -- The status is looked at again under the lock of the balance's row: what was suspended meanwhile pays nothing.
    if v_payer.org_id is not null then
        update public.quel_organization
        set org_credit = org_credit - p_price, updated_at = clock_timestamp()
        where org_id = v_payer.org_id and org_credit >= p_price and org_status = 'active' and deleted_at is null
        returning org_credit into v_balance;
    else
        update public.quel_member
        set quel_member_credit = quel_member_credit - p_price, updated_at = clock_timestamp()
        where quel_member_id = v_payer.member_id and quel_member_credit >= p_price and quel_member_status = 'active'
        returning quel_member_credit into v_balance;
    end if;
    if v_balance is null then
        v_payer := null;
        select * into v_payer from quel_dagster.payer_v1(p_job);
        return jsonb_build_object('outcome', case when v_payer.problem is null then 'insufficient' else 'no_payer' end,
                                  'payer', to_jsonb(v_payer));
    end if;

    -- clock_timestamp() under the balance's lock: the ledger's order is the order of the balances.
    v_now := clock_timestamp();
    insert into public.quel_attach
        (created_at, attach_original_name, attach_file_name, attach_file_path, attach_file_size,
         attach_file_type, attach_directory, attach_storage_type)
    values (v_now, v_name, v_name, p_key, p_size, 'image/webp', p_key, p_storage)
    returning attach_id into v_attach;
    insert into public.quel_credits
        (id, user_id, transaction_type, amount, balance_after, description, attach_idx, created_at,
         updated_at, production_idx, org_id, used_by_member_id, api_provider)
    values (gen_random_uuid(), v_payer.member_id, 'DEDUCT', -p_price,
            least(v_balance, 2147483647),  -- the ledger's column is an int, the balances are not
            case when v_payer.org_id is null then 'Generated With Image'
                 else 'Organization Generated With Image' end,
            v_attach, v_now, v_now, v_job.production_id, v_payer.org_id,
            case when v_payer.org_id is null then null else v_payer.member_id end, 'gemini-banana');
    update quel_dagster.picture_slot
    set attach_id = v_attach, committed_at = v_now, size = p_size, sha256 = p_sha256, price = p_price,
        member_id = v_payer.member_id, org_id = v_payer.org_id
    where job_id = p_job and unit = p_unit and number = p_number;
    delete from quel_dagster.orphan_object where object_key = p_key;
    update quel_dagster.job_lease set probation = false where job_id = p_job and probation;

    v_ids := quel_dagster.job_picture_ids_v1(p_job, v_job.generated_attach_ids);
    update public.quel_production_jobs
    set generated_attach_ids = v_ids, completed_images = jsonb_array_length(v_ids), updated_at = v_now
    where job_id = p_job;
    return jsonb_build_object('outcome', 'stored', 'attach_id', v_attach, 'balance', v_balance,
                              'payer', to_jsonb(v_payer), 'completed', jsonb_array_length(v_ids));
end $$;

-- The production follows its jobs: processing while one is open, then the best end of them. Its own ids stay first, as
-- they are (also those that no bigint holds), then those of its jobs; no id twice (domain.md §3).
create function quel_dagster.refresh_production_v2(p_production uuid, p_inputs int) returns void
language plpgsql as $$
declare
    v_photo  public.quel_production_photo;
    v_ids    jsonb;
    v_made   int;
    v_begun  timestamptz;
    v_ended  timestamptz;
    v_open   boolean;
    v_ends   text[];
begin
    select * into v_photo from public.quel_production_photo where production_id = p_production for update;
    select min(started_at), max(completed_at), bool_or(job_status in ('pending', 'processing')),
           array_agg(distinct job_status::text)
    into v_begun, v_ended, v_open, v_ends
    from public.quel_production_jobs where production_id = p_production;
    select coalesce(jsonb_agg(y.item order by y.rank), '[]') into v_ids
    from (
        select x.item, min(x.rank) as rank
        from (
            select case when item #>> '{}' ~ '^[0-9]{1,18}(\.0+)?$' then to_jsonb((item #>> '{}')::numeric::bigint)
                        else item end as item, place as rank
            from jsonb_array_elements(case when jsonb_typeof(v_photo.attach_ids) = 'array'
                                           then v_photo.attach_ids else '[]' end)
                 with ordinality as items (item, place)
            where jsonb_typeof(item) in ('number', 'string')
            union all
            select to_jsonb(i.attach_id), 1000000000 + row_number() over (order by j.created_at, j.job_id, i.place)
            from public.quel_production_jobs j,
                 quel_dagster.job_pictures_v1(j.job_id, j.generated_attach_ids) i
            where j.production_id = p_production
        ) x group by x.item
    ) y;
    select count(distinct i.attach_id) into v_made
    from public.quel_production_jobs j, quel_dagster.job_pictures_v1(j.job_id, j.generated_attach_ids) i
    where j.production_id = p_production;
    update public.quel_production_photo
    set production_status = (case
            when v_open then 'processing'
            when 'completed' = any (v_ends) then 'completed'
            when 'user_cancelled' = any (v_ends) then 'user_cancelled'
            else 'failed'  -- its enum has no `cancelled`
        end)::public.production_status_enum,
        attach_ids = v_ids,
        generated_image_count = v_made,
        processing_duration_seconds = greatest(0, round(extract(epoch from v_ended - v_begun)))::int,
        input_images_count = greatest(coalesce(input_images_count, 0), coalesce(p_inputs, 0))
    where production_id = p_production;
end $$;

-- Write the end of a job and of its production: the one place that does. The caller holds the job's row lock.
-- p_failed: pictures that failed for a reason of their own; after a cancel only these count as failed.
create function quel_dagster.write_end_v1(
    p_job public.quel_production_jobs, p_status text, p_total int, p_error text, p_note text, p_failed int,
    p_inputs int
) returns jsonb language plpgsql as $$
declare
    v_by      text := quel_dagster.cancelled_by_v1(p_job.job_id, p_job.job_status::text);
    v_ids     jsonb := quel_dagster.job_picture_ids_v1(p_job.job_id, p_job.generated_attach_ids);
    v_made    int := jsonb_array_length(v_ids);
    v_status  text := p_status;
    v_error   text := p_error;
    v_failed  int;
begin
    if v_by = 'user' then
        v_status := 'user_cancelled';
        v_error := 'Cancelled by the user.';
    elsif v_by = 'operator' then
        v_status := 'cancelled';
        v_error := (select 'Cancelled by operator ' || c.actor || coalesce(': ' || nullif(c.reason, ''), '') || '.'
                    from quel_dagster.job_cancel c where c.job_id = p_job.job_id);
    elsif p_job.job_status = 'cancelled' then
        v_status := 'cancelled';
        v_error := 'The row was set to cancelled while the job was at work.';
    elsif v_status = 'completed' and v_made = 0 then
        v_status := 'failed';
        v_error := coalesce(v_error, 'No picture was made.');
    elsif v_status = 'completed' and v_made < p_total then
        v_error := coalesce(v_error, format('%s of %s pictures are missing, and no reason is known.',
                                            p_total - v_made, p_total));
    elsif v_status = 'completed' then
        v_error := null;
    end if;
    v_error := left(concat_ws(' ', v_error, nullif(p_note, '')), 2000);
    v_error := nullif(v_error, '');
    v_failed := case when v_status in ('cancelled', 'user_cancelled')
                     then least(greatest(0, coalesce(p_failed, 0)), greatest(0, p_total - v_made))
                     else greatest(0, p_total - v_made) end;
    perform quel_dagster.drop_open_slots_v1(p_job.job_id, 'its job ended without it');
    delete from quel_dagster.job_death where job_id = p_job.job_id;
    update public.quel_production_jobs
    set job_status = v_status::public.job_status_enum,
        generated_attach_ids = v_ids,
        completed_images = v_made,
        failed_images = v_failed,
        error_message = v_error,
        started_at = coalesce(started_at, clock_timestamp()),
        completed_at = clock_timestamp(),
        updated_at = clock_timestamp()
    where job_id = p_job.job_id;
    perform quel_dagster.refresh_production_v2(p_job.production_id, p_inputs);
    return jsonb_build_object('outcome', 'settled', 'status', v_status, 'completed', v_made, 'failed', v_failed,
                              'attach_ids', v_ids, 'error', v_error);
end $$;

-- End a job under its lease, and give the lease back. `p_status` is what the run concluded; a cancel and the pictures
-- really there have the last word. outcome: settled, lease_lost.
create function quel_dagster.settle_job_v2(
    p_job uuid, p_token bigint, p_status text, p_total int, p_error text, p_note text, p_failed int, p_inputs int
) returns jsonb language plpgsql as $$
declare
    v_job     public.quel_production_jobs;
    v_answer  jsonb;
begin
    select * into v_job from public.quel_production_jobs where job_id = p_job for update;
    if not found or not quel_dagster.holds_lease(p_job, p_token) then
        return jsonb_build_object('outcome', 'lease_lost');
    end if;
    v_answer := quel_dagster.write_end_v1(v_job, p_status, p_total, p_error, p_note, p_failed, p_inputs);
    delete from quel_dagster.job_lease where job_id = p_job and token = p_token;
    return v_answer;
end $$;

-- End a job that no run works on any more: its run died for the last time, was cancelled before it began, or the
-- user cancelled while it waited. Changes nothing when the job has ended, or when a run other than `p_runs` holds a
-- live lease. outcome: settled, missing, ended, held, elsewhere (another worker on the same list has it).
create function quel_dagster.end_abandoned_job_v2(
    p_job uuid, p_runs text[], p_status text, p_error text
) returns jsonb language plpgsql as $$
declare
    v_job     public.quel_production_jobs;
    v_lease   quel_dagster.job_lease;
    v_made    int;
begin
    select * into v_job from public.quel_production_jobs where job_id = p_job for update;
    if not found then
        return jsonb_build_object('outcome', 'missing');
    end if;
    if v_job.job_status not in ('pending', 'processing') then
        return jsonb_build_object('outcome', 'ended', 'status', v_job.job_status);
    end if;
    select * into v_lease from quel_dagster.job_lease where job_id = p_job for update;
    if found and v_lease.expires_at > clock_timestamp() and not v_lease.run_id = any (p_runs) then
        return jsonb_build_object('outcome', 'held', 'holder', v_lease.run_id, 'worker', v_lease.worker);
    end if;
    if v_job.job_status = 'processing' and v_lease.job_id is null and cardinality(p_runs) = 0 then
        return jsonb_build_object('outcome', 'elsewhere');
    end if;
    select count(*) into v_made from quel_dagster.job_pictures_v1(p_job, v_job.generated_attach_ids);
    delete from quel_dagster.job_lease where job_id = p_job;  -- fences off the run that held it
    return quel_dagster.write_end_v1(
        v_job,
        case when v_made >= v_job.total_images and v_job.total_images > 0 then 'completed' else p_status end,
        greatest(v_job.total_images, 0), p_error, null, null, 0);
end $$;

-- Keep a cancel: the user's (p_actor null), or an operator's. Under the job lock, so that nothing is committed
-- after it. The user's cancel takes the place of an operator's, never the reverse.
create function quel_dagster.keep_cancel_v2(p_job uuid, p_actor text, p_reason text) returns void
language plpgsql as $$
begin
    perform 1 from public.quel_production_jobs where job_id = p_job for update;
    insert into quel_dagster.job_cancel as c (job_id, actor, reason) values (p_job, p_actor, p_reason)
    on conflict (job_id) do update set actor = null, reason = null, seen_at = clock_timestamp()
        where p_actor is null and c.actor is not null;
end $$;

-- Give one picture's credits back (domain.md §8): a ledger row of +price and the balance, in one transaction, at most
-- once a picture. The picture stays in its job. outcome: refunded, refunded_before, not_charged.
create function quel_dagster.refund_v1(p_attach bigint, p_reason text) returns jsonb language plpgsql as $$
declare
    v_charge   public.quel_credits;
    v_before   public.quel_credits;
    v_balance  bigint;
    v_now      timestamptz;
begin
    select * into v_charge from public.quel_credits
    where attach_idx = p_attach and transaction_type = 'DEDUCT' order by created_at limit 1;
    if not found then
        return jsonb_build_object('outcome', 'not_charged');
    end if;
    -- two refunds of one picture have one payer: this lock puts them in a row
    if v_charge.org_id is not null then
        perform 1 from public.quel_organization where org_id = v_charge.org_id for no key update;
    else
        perform 1 from public.quel_member where quel_member_id = v_charge.user_id for no key update;
    end if;
    select * into v_before from public.quel_credits
    where attach_idx = p_attach and transaction_type = 'refund' limit 1;
    if found then
        return jsonb_build_object('outcome', 'refunded_before', 'amount', v_before.amount, 'at', v_before.created_at);
    end if;
    v_now := clock_timestamp();
    if v_charge.org_id is not null then
        update public.quel_organization set org_credit = org_credit - v_charge.amount, updated_at = v_now
        where org_id = v_charge.org_id returning org_credit into v_balance;
    else
        update public.quel_member set quel_member_credit = quel_member_credit - v_charge.amount, updated_at = v_now
        where quel_member_id = v_charge.user_id returning quel_member_credit into v_balance;
    end if;
    insert into public.quel_credits
        (id, user_id, transaction_type, amount, balance_after, description, attach_idx, created_at,
         updated_at, production_idx, org_id, used_by_member_id, api_provider)
    values (gen_random_uuid(), v_charge.user_id, 'refund', -v_charge.amount, least(v_balance, 2147483647),
            left('Refund: ' || p_reason, 500), p_attach, v_now, v_now, v_charge.production_idx, v_charge.org_id,
            v_charge.used_by_member_id, v_charge.api_provider);
    return jsonb_build_object('outcome', 'refunded', 'amount', -v_charge.amount, 'balance', v_balance);
end $$;

-- Count a recovery of a stranded job: how many there were in 72 hours, this one included.
create function quel_dagster.count_recovery_v2(p_job uuid, p_reason text) returns bigint language plpgsql as $$
begin
    delete from quel_dagster.job_recovery where recovered_at < clock_timestamp() - interval '72 hours';
    insert into quel_dagster.job_recovery (job_id, reason) values (p_job, p_reason);
    return (select count(*) from quel_dagster.job_recovery where job_id = p_job);
end $$;

-- --- for workers of before, which know no slots ---------------------------------------------------------

-- As before; the names of `made` are those in which such a worker reads its slots.
create or replace function quel_dagster.claim_job(
    p_job uuid, p_run text, p_retry_of text[], p_worker text, p_seconds double precision
) returns jsonb language plpgsql as $$
declare
    v_answer  jsonb := quel_dagster.claim_job_v2(p_job, p_run, p_retry_of, p_worker, p_seconds);
begin
    if v_answer ->> 'outcome' = 'probation' then
        return jsonb_build_object('outcome', 'held', 'holder', 'none', 'worker', 'waiting: two processes died with it');
    elsif v_answer ->> 'outcome' <> 'claimed' then
        return v_answer;
    end if;
    return jsonb_build_object(
        'outcome', 'claimed', 'token', v_answer -> 'token', 'took_over_from', v_answer -> 'took_over_from',
        'cancelled', v_answer ->> 'cancelled_by' is not null,
        'job', (v_answer -> 'job') - 'input_text'
               || jsonb_build_object('input_data', (v_answer #>> '{job,input_text}')::jsonb),
        'made', (
            select coalesce(jsonb_agg(jsonb_build_object(
                'attach_id', item -> 'attach_id',
                'key', case when item ->> 'unit' is not null
                            then p_job::text || '_u' || lpad(item ->> 'unit', greatest(4, length(item ->> 'unit')), '0')
                                 || '_p' || lpad(item ->> 'number', greatest(4, length(item ->> 'number')), '0')
                                 || '.webp' end) order by place), '[]')
            from jsonb_array_elements(v_answer -> 'made') with ordinality as items (item, place)));
end $$;

create or replace function quel_dagster.begin_job(p_job uuid, p_token bigint) returns text language sql as $$
    select case answer ->> 'outcome' when 'begun' then 'begun' when 'cancelled' then 'cancelled' else 'lease_lost' end
    from quel_dagster.begin_job_v2(p_job, p_token, 0) answer
$$;

create or replace function quel_dagster.commit_picture(
    p_job uuid, p_token bigint, p_member uuid, p_key text, p_size bigint, p_storage text,
    p_price int, p_total int
) returns jsonb language plpgsql as $$
declare
    v_slot    text[] := regexp_match(p_key, '_u([0-9]{4,9})_p([0-9]{4,9})\.webp$');
    v_answer  jsonb;
begin
    v_answer := quel_dagster.reserve_slot_v1(
        p_job, p_token, v_slot[1]::int, v_slot[2]::int, p_key, p_price);
    if v_answer ->> 'outcome' = 'reserved' then
        v_answer := quel_dagster.commit_picture_v2(
            p_job, p_token, v_slot[1]::int, v_slot[2]::int, p_key, p_size, null, p_storage, p_price, p_total);
    end if;
    if v_answer ->> 'outcome' in ('wait', 'insufficient', 'no_payer') then
        -- the name is the same at the next try, so the object must not be deleted behind it
        perform quel_dagster.release_slot_v1(p_job, p_token, v_slot[1]::int, v_slot[2]::int, false);
        return jsonb_build_object(
            'outcome', 'insufficient',
            'payer', case when v_answer #>> '{payer,org_id}' is null then 'member' else 'organization' end);
    elsif v_answer ->> 'outcome' in ('taken', 'stored') then
        return v_answer || jsonb_build_object(
            'payer', case when v_answer #>> '{payer,org_id}' is null then 'member' else 'organization' end,
            'completed', (select jsonb_array_length(quel_dagster.job_picture_ids_v1(job_id, generated_attach_ids))
                          from public.quel_production_jobs where job_id = p_job));
    end if;
    return v_answer;
end $$;

create or replace function quel_dagster.refresh_production(p_production uuid, p_inputs int) returns void
language sql as $$ select quel_dagster.refresh_production_v2(p_production, p_inputs) $$;

create or replace function quel_dagster.settle_job(
    p_job uuid, p_token bigint, p_status text, p_total int, p_error text, p_inputs int
) returns jsonb language sql as $$
    select quel_dagster.settle_job_v2(p_job, p_token, p_status, p_total, p_error, null, null, p_inputs)
$$;

create or replace function quel_dagster.keep_cancel(p_job uuid) returns void language sql as $$
    select quel_dagster.keep_cancel_v2(p_job, null, null)
$$;

create or replace function quel_dagster.end_abandoned_job(
    p_job uuid, p_runs text[], p_status text, p_error text
) returns jsonb language sql as $$
    select quel_dagster.end_abandoned_job_v2(p_job, p_runs, p_status, p_error)
$$;

create or replace function quel_dagster.count_recovery(p_job uuid) returns bigint language sql as $$
    select quel_dagster.count_recovery_v2(p_job, null)
$$;
