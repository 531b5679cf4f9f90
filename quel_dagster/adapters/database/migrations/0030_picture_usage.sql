-- What a picture cost at Gemini: calls, tokens as Google bills them, USD by the price table of the program that asked.
-- The operator's figures, beside the credits that the user pays; nothing is charged from them.

create table quel_dagster.picture_usage (
    id            bigint generated always as identity primary key,
    job_id        uuid not null,
    unit          int not null,
    number        int not null,
    -- null: calls that gave no picture of the job
    attach_id     bigint,
    -- the model that was asked last
    model         text not null,
    calls         int not null,
    input_tokens  bigint not null,
    image_tokens  bigint not null,
    -- words and thoughts
    text_tokens   bigint not null,
    -- null: a model without known prices was asked
    usd           numeric,
    -- what a reader should know: another model than chosen, another shape than ordered
    notes         text[] not null default '{}',
    noted_at      timestamptz not null default clock_timestamp()
);
create index picture_usage_job on quel_dagster.picture_usage (job_id);
create index picture_usage_time on quel_dagster.picture_usage (noted_at);

-- Note what calls took; p_usage is null where there is nothing to note.
create function quel_dagster.note_usage_v1(p_job uuid, p_unit int, p_number int, p_attach bigint, p_usage jsonb)
returns void language sql as $$
    insert into quel_dagster.picture_usage
        (job_id, unit, number, attach_id, model, calls, input_tokens, image_tokens, text_tokens, usd, notes)
    select p_job, p_unit, p_number, p_attach, p_usage ->> 'model', (p_usage ->> 'calls')::int,
           (p_usage ->> 'input')::bigint, (p_usage ->> 'image')::bigint, (p_usage ->> 'text')::bigint,
           (p_usage ->> 'usd')::numeric,
           array(select jsonb_array_elements_text(coalesce(p_usage -> 'notes', '[]')))
    where p_usage is not null
$$;

-- commit_picture_v2, and what the picture took, in one transaction. A commit whose answer was lost is asked again and
-- finds its own picture: that notes nothing twice.
create function quel_dagster.commit_picture_v3(
    p_job uuid, p_token bigint, p_unit int, p_number int, p_key text, p_size bigint, p_sha256 text, p_storage text,
    p_price int, p_total int, p_usage jsonb
) returns jsonb language plpgsql as $$
declare
    v_answer  jsonb := quel_dagster.commit_picture_v2(
        p_job, p_token, p_unit, p_number, p_key, p_size, p_sha256, p_storage, p_price, p_total);
begin
    if v_answer ->> 'outcome' = 'stored' then
        perform quel_dagster.note_usage_v1(p_job, p_unit, p_number, (v_answer ->> 'attach_id')::bigint, p_usage);
    elsif v_answer ->> 'outcome' = 'taken' and not exists (
        select 1 from quel_dagster.picture_slot s
        where s.job_id = p_job and s.unit = p_unit and s.number = p_number and s.object_key = p_key
    ) then
        perform quel_dagster.note_usage_v1(p_job, p_unit, p_number, null, p_usage);
    end if;
    return v_answer;
end $$;
