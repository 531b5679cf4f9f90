-- What operators did, by whom, when, why and with what result; shown by `quel show` and the page at /quel.

create table quel_dagster.action (
    action_id  bigint generated always as identity primary key,
    at         timestamptz not null default clock_timestamp(),
    -- the operator's name, as they gave it or as the proxy in front of the page did
    actor      text not null,
    -- cli, page
    via        text not null,
    -- retry, cancel, refund, pause, resume, enqueue, dead requeue, dead drop
    action     text not null,
    job_id     uuid,
    -- what it was done to, when that is not a whole job: an attach id, the name of a dead letter
    subject    text,
    reason     text,
    -- done, nothing, refused
    result     text not null,
    said       text not null
);
create index action_job on quel_dagster.action (job_id, at) where job_id is not null;

-- `quel show RUN_ID` finds the job of a run by the beginning of its id.
create index op_output_run on quel_dagster.op_output (run_id text_pattern_ops);
