-- oldest-code: 0
--
-- A machine that fails kills many processes, and jobs with them that are not to blame: only a job that was in every
-- process which died meanwhile is given up soon.

-- Processes of workers that died with jobs, as the next claims of these jobs find out.
create table quel_dagster.process_death (
    worker   text primary key,
    seen_at  timestamptz not null
);
create index process_death_time on quel_dagster.process_death (seen_at);

-- since: the first of these deaths; workers: the processes that died
alter table quel_dagster.job_death add column since timestamptz;
alter table quel_dagster.job_death add column workers text[] not null default '{}';

-- claim_job_v2, with another rule for deaths. A claim that follows a lease which was neither given back nor handed
-- over, which another process held, and which lived less than p_death_seconds, counts a death of the job's process.
-- Deaths without one picture more add up. The claim says `poisoned` from p_deaths on, if no other process died since the first
-- of them; otherwise the machine may be at fault, and it takes p_deaths_elsewhere. Before the last of these deaths the
-- job is on probation: one such job is tried at a time.
create function quel_dagster.claim_job_v3(
    p_job uuid, p_run text, p_retry_of text[], p_worker text, p_seconds double precision,
    p_deaths int default 3, p_deaths_elsewhere int default 10, p_death_seconds double precision default 180
) returns jsonb language plpgsql as $$
declare
    v_job    public.quel_production_jobs;
    v_lease  quel_dagster.job_lease;
    v_token  bigint;
    v_made   int;
    v_now    timestamptz;
    v_death  quel_dagster.job_death;
    v_dead   int := 0;
    v_limit  int := p_deaths;
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
        if v_lease.job_id is not null and not v_lease.handed_over and v_lease.worker <> p_worker
           and clock_timestamp() - v_lease.claimed_at < make_interval(secs => p_death_seconds) then
            v_now := clock_timestamp();
            delete from quel_dagster.process_death where seen_at < v_now - interval '1 day';
            insert into quel_dagster.process_death (worker, seen_at) values (v_lease.worker, v_now)
            on conflict (worker) do nothing;
            select count(*) into v_made from quel_dagster.picture_slot
            where job_id = p_job and attach_id is not null;
            insert into quel_dagster.job_death as d (job_id, deaths, pictures, last_at, since, workers)
            values (p_job, 1, v_made, v_now, v_now, array[v_lease.worker])
            on conflict (job_id) do update
                set deaths = case when v_made > d.pictures then 1 else d.deaths + 1 end,
                    since = case when v_made > d.pictures then v_now else coalesce(d.since, d.last_at) end,
                    workers = case when v_made > d.pictures then '{}' else d.workers end || v_lease.worker,
                    pictures = v_made, last_at = v_now;
        end if;
        select * into v_death from quel_dagster.job_death where job_id = p_job;
        v_dead := coalesce(v_death.deaths, 0);
        if exists (
            select 1 from quel_dagster.process_death p
            where p.seen_at >= coalesce(v_death.since, v_death.last_at) and p.worker <> all (v_death.workers)
        ) then
            v_limit := p_deaths_elsewhere;
        end if;
        if v_dead = v_limit - 1 then
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
            clock_timestamp() + make_interval(secs => p_seconds), false, v_dead = v_limit - 1)
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
        'poisoned', v_dead >= v_limit,
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
