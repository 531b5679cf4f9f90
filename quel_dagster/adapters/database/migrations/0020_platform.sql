-- oldest-code: 0
--
-- Which `quel up` runs the platform (daemon, sensors) of this installation now, and which Dagster storage it uses: two
-- platforms on one queue would launch every job twice, and a worker on another storage would find none of its runs.

create table quel_dagster.platform (
    only_one    boolean primary key default true check (only_one),
    holder      text not null,
    -- host and home, for people
    place       text not null,
    storage_id  text not null,
    expires_at  timestamptz not null
);

-- Take or renew the place. The same host and home takes over from a process of its own that died.
create function quel_dagster.hold_platform_v1(p_holder text, p_place text, p_storage_id text, p_seconds float8)
returns jsonb language plpgsql as $$
declare
    v_row quel_dagster.platform;
begin
    insert into quel_dagster.platform as now_there (holder, place, storage_id, expires_at)
    values (p_holder, p_place, p_storage_id, clock_timestamp() + make_interval(secs => p_seconds))
    on conflict (only_one) do update
        set holder = excluded.holder, place = excluded.place, storage_id = excluded.storage_id,
            expires_at = excluded.expires_at
        where now_there.holder = excluded.holder or now_there.place = excluded.place
           or now_there.expires_at <= clock_timestamp();
    select * into v_row from quel_dagster.platform;
    return jsonb_build_object('held', v_row.holder = p_holder, 'place', v_row.place);
end $$;

create function quel_dagster.leave_platform_v1(p_holder text) returns void language sql as $$
    update quel_dagster.platform set expires_at = clock_timestamp() where holder = p_holder
$$;
