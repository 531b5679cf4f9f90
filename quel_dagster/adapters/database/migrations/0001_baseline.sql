-- Our own schema: the lease table, kept cancels, values between ops, and the transactions as functions.
--
-- A function is one round trip and takes a fresh snapshot for every statement inside it, which a single
-- statement with CTEs would not: the slot check has to see what the job lock just waited for.
-- Lock order in every function: job, lease, balance, production.
-- The schema as it was before migrations were numbered; everything here may run again over an installation of then.

create sequence if not exists quel_dagster.lease_token;

-- Somebody is really working on this job now. The fencing token grows with every claim.
create table if not exists quel_dagster.job_lease (
    job_id      uuid primary key,
    token       bigint not null,
    run_id      text not null,
    worker      text not null,
    claimed_at  timestamptz not null,
    expires_at  timestamptz not null
);

-- A user's cancel, kept beyond the one hour that the Redis flag lives.
create table if not exists quel_dagster.job_cancel (
    job_id   uuid primary key,
    seen_at  timestamptz not null default clock_timestamp()
);

-- When the sweep pushed a stranded job again: after three times in 72 hours it is given up.
create table if not exists quel_dagster.job_recovery (
    job_id        uuid not null,
    recovered_at  timestamptz not null default clock_timestamp()
);
create index if not exists job_recovery_job on quel_dagster.job_recovery (job_id, recovered_at);

-- Values between ops, as JSON: a re-execution may read them on another host.
create table if not exists quel_dagster.op_output (
    run_id      text not null,
    step_key    text not null,
    output      text not null,
    mapping_key text not null default '',
    value       jsonb not null,
    created_at  timestamptz not null default now(),
    primary key (run_id, step_key, output, mapping_key)
);

create or replace function quel_dagster.attach_ids(ids jsonb) returns table (attach_id bigint, place bigint)
language sql immutable as $$
    select (item #>> '{}')::numeric::bigint, place
    from jsonb_array_elements(case when jsonb_typeof(ids) = 'array' then ids else '[]' end)
         with ordinality as items (item, place)
    where (item #>> '{}') ~ '^[0-9]+(\.0+)?$'
$$;

-- Does this run (still) hold the lease? FOR SHARE: a claim by another run waits for our commit.
create or replace function quel_dagster.holds_lease(p_job uuid, p_token bigint) returns boolean
language plpgsql as $$
begin
    perform 1 from quel_dagster.job_lease where job_id = p_job and token = p_token for share;
    return found;
end $$;

-- Claim the job for a run. Free, expired (by this clock alone), already ours, or held by a run that this
-- one retries: a new token. Otherwise who holds it. Never changes the web app's row.
create or replace function quel_dagster.claim_job(
    p_job uuid, p_run text, p_retry_of text[], p_worker text, p_seconds double precision
) returns jsonb language plpgsql as $$
declare
    v_job    public.quel_production_jobs;
    v_lease  quel_dagster.job_lease;
    v_token  bigint;
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
    v_token := nextval('quel_dagster.lease_token');
    insert into quel_dagster.job_lease (job_id, token, run_id, worker, claimed_at, expires_at)
    values (p_job, v_token, p_run, p_worker, clock_timestamp(), clock_timestamp() + make_interval(secs => p_seconds))
    on conflict (job_id) do update
        set token = excluded.token, run_id = excluded.run_id, worker = excluded.worker,
            claimed_at = excluded.claimed_at, expires_at = excluded.expires_at;
    return jsonb_build_object(
        'outcome', 'claimed',
        'token', v_token,
        'took_over_from', v_lease.run_id,
        'cancelled', v_job.job_status = 'user_cancelled'
                     or exists (select 1 from quel_dagster.job_cancel c where c.job_id = p_job),
        'job', jsonb_build_object(
            'job_id', v_job.job_id,
            'production_id', v_job.production_id,
            'job_type', v_job.job_type,
            'job_status', coalesce(v_job.job_status, 'pending'),
            'total_images', v_job.total_images,
            'input_data', v_job.job_input_data,
            'member_id', coalesce(v_job.quel_member_id, p.quel_member_id),
            'org_id', v_job.org_id,
            'production_path', coalesce(v_job.quel_production_path, p.quel_production_path),
            'created_at', v_job.created_at,
            'stage_index', v_job.stage_index),
        'made', (select coalesce(jsonb_agg(jsonb_build_object('attach_id', i.attach_id, 'key', a.attach_file_path)
                                           order by i.place), '[]')
                 from quel_dagster.attach_ids(v_job.generated_attach_ids) i
                 left join public.quel_attach a using (attach_id)))
    from public.quel_production_photo p where p.production_id = v_job.production_id;
end $$;

-- Enter processing, for a job that has pictures to make. An ended job that runs again counts as a retry.
create or replace function quel_dagster.begin_job(p_job uuid, p_token bigint) returns text
language plpgsql as $$
declare
    v_job  public.quel_production_jobs;
begin
    select * into v_job from public.quel_production_jobs where job_id = p_job for update;
    if not found or not quel_dagster.holds_lease(p_job, p_token) then
        return 'lease_lost';
    end if;
    if v_job.job_status = 'user_cancelled'
       or exists (select 1 from quel_dagster.job_cancel c where c.job_id = p_job) then
        return 'cancelled';
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
    return 'begun';
end $$;

-- One picture, wholly or not at all: slot check, attach row, conditional charge, ledger, progress.
-- Idempotent: a slot that is taken changes nothing, so a call whose answer was lost may be repeated.
create or replace function quel_dagster.commit_picture(
    p_job uuid, p_token bigint, p_member uuid, p_key text, p_size bigint, p_storage text,
    p_price int, p_total int
) returns jsonb language plpgsql as $$
declare
    v_job      public.quel_production_jobs;
    v_name     text := regexp_replace(p_key, '^.*/', '');
    v_attach   bigint;
    v_balance  bigint;
    v_org      uuid;
    v_ids      jsonb;
    v_now      timestamptz;
begin
    select * into v_job from public.quel_production_jobs where job_id = p_job for update;
    if not found or not quel_dagster.holds_lease(p_job, p_token) then
        return jsonb_build_object('outcome', 'lease_lost');
    end if;

    select i.attach_id into v_attach
    from quel_dagster.attach_ids(v_job.generated_attach_ids) i
    join public.quel_attach a using (attach_id)
    where a.attach_file_name = v_name  -- the name holds job and slot
    limit 1;
    if found then
        return jsonb_build_object('outcome', 'taken', 'attach_id', v_attach,
                                  'completed', jsonb_array_length(v_job.generated_attach_ids));
    end if;

    if v_job.job_status = 'user_cancelled'
       or exists (select 1 from quel_dagster.job_cancel c where c.job_id = p_job) then
        return jsonb_build_object('outcome', 'cancelled');
    end if;
    if v_job.job_status is distinct from 'processing' then
        return jsonb_build_object('outcome', 'not_processing', 'status', v_job.job_status);
    end if;
    if (select count(*) from quel_dagster.attach_ids(v_job.generated_attach_ids)) >= p_total then
        return jsonb_build_object('outcome', 'full');
    end if;

    -- An active organization pays, and then nobody else does, however little it has (domain.md §8).
    select org_id into v_org from public.quel_organization
    where org_id = v_job.org_id and org_status = 'active' for no key update;
    if v_org is not null then
        update public.quel_organization
        set org_credit = org_credit - p_price, updated_at = clock_timestamp()
        where org_id = v_org and org_credit >= p_price
        returning org_credit into v_balance;
    else
        update public.quel_member
        set quel_member_credit = quel_member_credit - p_price, updated_at = clock_timestamp()
        where quel_member_id = p_member and quel_member_credit >= p_price
        returning quel_member_credit into v_balance;
    end if;
    if v_balance is null then
        return jsonb_build_object('outcome', 'insufficient', 'payer',
                                  case when v_org is null then 'member' else 'organization' end);
    end if;

    -- clock_timestamp() under the balance lock: the ledger's order is the order of the balances.
    v_now := clock_timestamp();
    insert into public.quel_attach
        (created_at, attach_original_name, attach_file_name, attach_file_path, attach_file_size,
         attach_file_type, attach_directory, attach_storage_type)
    values (v_now, v_name, v_name, p_key, p_size, 'image/webp', p_key, p_storage)
    returning attach_id into v_attach;
    insert into public.quel_credits
        (id, user_id, transaction_type, amount, balance_after, description, attach_idx, created_at,
         updated_at, production_idx, org_id, used_by_member_id, api_provider)
    values (gen_random_uuid(), p_member, 'DEDUCT', -p_price,
            least(v_balance, 2147483647),  -- the ledger's column is an int, the balances are not
            case when v_org is null then 'Generated With Image' else 'Organization Generated With Image' end,
            v_attach, v_now, v_now, v_job.production_id, v_org,
            case when v_org is null then null else p_member end, 'gemini-banana');

    -- Ids in slot order: the names of ours sort by slot, those of another worker stay in front as they came.
    select jsonb_agg(x.attach_id order by x.ours, case when x.ours then x.name end collate "C", x.place)
    into v_ids
    from (
        select i.attach_id, i.place, a.attach_file_name as name,
               coalesce(a.attach_file_name like p_job::text || '\_%', false) as ours
        from (select * from quel_dagster.attach_ids(v_job.generated_attach_ids)
              union all select v_attach, 2147483647) i
        left join public.quel_attach a using (attach_id)
    ) x;
    update public.quel_production_jobs
    set generated_attach_ids = v_ids, completed_images = jsonb_array_length(v_ids), updated_at = v_now
    where job_id = p_job;

    return jsonb_build_object('outcome', 'stored', 'attach_id', v_attach, 'balance', v_balance,
                              'payer', case when v_org is null then 'member' else 'organization' end,
                              'completed', jsonb_array_length(v_ids));
end $$;

-- The status of a production follows its jobs: processing while one is open, then the best end of them.
create or replace function quel_dagster.refresh_production(p_production uuid, p_inputs int) returns void
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
    -- existing ids first, then those of its jobs, no id twice (domain.md §3)
    select coalesce(jsonb_agg(y.attach_id order by y.rank), '[]') into v_ids
    from (
        select x.attach_id, min(x.rank) as rank
        from (
            select attach_id, place as rank from quel_dagster.attach_ids(v_photo.attach_ids)
            union all
            select i.attach_id,
                   1000000 + row_number() over (order by j.created_at, j.job_id, i.place)
            from public.quel_production_jobs j, quel_dagster.attach_ids(j.generated_attach_ids) i
            where j.production_id = p_production
        ) x group by x.attach_id
    ) y;
    select count(distinct i.attach_id) into v_made
    from public.quel_production_jobs j, quel_dagster.attach_ids(j.generated_attach_ids) i
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

-- End a job, its production with it, and give the lease back. `p_status` is what the run concluded; the
-- user's cancel and the pictures really there have the last word: none made is never `completed`.
create or replace function quel_dagster.settle_job(
    p_job uuid, p_token bigint, p_status text, p_total int, p_error text, p_inputs int
) returns jsonb language plpgsql as $$
declare
    v_job     public.quel_production_jobs;
    v_made    int;
    v_status  text := p_status;
    v_error   text := p_error;
begin
    select * into v_job from public.quel_production_jobs where job_id = p_job for update;
    if not found or not quel_dagster.holds_lease(p_job, p_token) then
        return jsonb_build_object('outcome', 'lease_lost');
    end if;
    select count(*) into v_made from quel_dagster.attach_ids(v_job.generated_attach_ids);
    if v_job.job_status = 'user_cancelled'
       or exists (select 1 from quel_dagster.job_cancel c where c.job_id = p_job) then
        v_status := 'user_cancelled';
        v_error := coalesce(v_error, 'Cancelled by the user.');
    elsif v_status = 'completed' and v_made = 0 then
        v_status := 'failed';
        v_error := coalesce(v_error, 'No picture was made.');
    end if;
    update public.quel_production_jobs
    set job_status = v_status::public.job_status_enum,
        completed_images = v_made,
        failed_images = greatest(0, p_total - v_made),
        error_message = case when v_status = 'completed' and v_made >= p_total then null else v_error end,
        started_at = coalesce(started_at, clock_timestamp()),
        completed_at = clock_timestamp(),
        updated_at = clock_timestamp()
    where job_id = p_job;
    perform quel_dagster.refresh_production(v_job.production_id, p_inputs);
    delete from quel_dagster.job_lease where job_id = p_job and token = p_token;
    return jsonb_build_object(
        'outcome', 'settled', 'status', v_status, 'completed', v_made, 'failed', greatest(0, p_total - v_made),
        'attach_ids', (select coalesce(jsonb_agg(attach_id order by place), '[]')
                       from quel_dagster.attach_ids(v_job.generated_attach_ids)),
        'error', case when v_status = 'completed' and v_made >= p_total then null else v_error end);
end $$;

-- Keep a user's cancel. Under the job lock, so that nothing is committed after it.
create or replace function quel_dagster.keep_cancel(p_job uuid) returns void language plpgsql as $$
begin
    perform 1 from public.quel_production_jobs where job_id = p_job for update;
    insert into quel_dagster.job_cancel (job_id) values (p_job) on conflict do nothing;
end $$;

-- End a job that nobody works on any more: its run died for good, was cancelled before it began, or the user
-- cancelled while it waited. Changes nothing when the job has ended, or when a run other than `p_runs` holds a
-- live lease.
create or replace function quel_dagster.end_abandoned_job(
    p_job uuid, p_runs text[], p_status text, p_error text
) returns jsonb language plpgsql as $$
declare
    v_job     public.quel_production_jobs;
    v_lease   quel_dagster.job_lease;
    v_made    int;
    v_status  text := p_status;
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
        return jsonb_build_object('outcome', 'elsewhere');  -- another worker on the same list has it
    end if;
    select count(*) into v_made from quel_dagster.attach_ids(v_job.generated_attach_ids);
    if exists (select 1 from quel_dagster.job_cancel c where c.job_id = p_job) then
        v_status := 'user_cancelled';
    elsif v_made >= v_job.total_images and v_job.total_images > 0 then
        v_status := 'completed';  -- it died between its last picture and its end
    end if;
    delete from quel_dagster.job_lease where job_id = p_job;  -- fences off whoever held it
    update public.quel_production_jobs
    set job_status = v_status::public.job_status_enum,
        completed_images = v_made,
        failed_images = greatest(0, v_job.total_images - v_made),
        error_message = case when v_status = 'completed' and v_made >= v_job.total_images then null
                             when v_status = 'user_cancelled' then 'Cancelled by the user.' else p_error end,
        started_at = coalesce(started_at, clock_timestamp()),
        completed_at = clock_timestamp(),
        updated_at = clock_timestamp()
    where job_id = p_job;
    perform quel_dagster.refresh_production(v_job.production_id, 0);
    return jsonb_build_object('outcome', 'settled', 'status', v_status, 'completed', v_made,
                              'failed', greatest(0, v_job.total_images - v_made),
                              'attach_ids', v_job.generated_attach_ids, 'error', p_error);
end $$;

-- Count a recovery of a stranded job: how many there were in 72 hours, this one included.
create or replace function quel_dagster.count_recovery(p_job uuid) returns bigint language plpgsql as $$
begin
    delete from quel_dagster.job_recovery where recovered_at < clock_timestamp() - interval '72 hours';
    insert into quel_dagster.job_recovery (job_id) values (p_job);
    return (select count(*) from quel_dagster.job_recovery where job_id = p_job);
end $$;
