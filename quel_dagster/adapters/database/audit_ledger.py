"""The audit's queries on balances, charges and refunds, I1 to I4."""

from __future__ import annotations

from quel_dagster.adapters.database.audit import listing, question

#: I1. Opening = what the first ledger row started from; of several rows at the same instant, any may be the first. A
#: balance_after of 2147483647, the most that its column holds, stands for any balance above.
BALANCES_MATCH_LEDGER = question(
    """
, ranked as (
    select payer, is_org, balance_after - amount as opening, amount, created_at,
           balance_after < 2147483647 as exact,
           min(created_at) filter (where balance_after < 2147483647) over (partition by payer, is_org) as first_exact
    from ledger
), sums as (
    select payer, is_org,
           coalesce(sum(amount) filter (where created_at >= first_exact), 0) as total,
           array_agg(opening) filter (where exact and created_at = first_exact) as openings
    from ranked group by payer, is_org
), balances as (
    select p.payer, p.is_org, p.total, p.openings,
           coalesce(case when p.is_org then o.org_credit else m.quel_member_credit end, 0) as balance
    from sums p
    left join public.quel_organization o on p.is_org and o.org_id = p.payer
    left join public.quel_member m on not p.is_org and m.quel_member_id = p.payer
), looked_at as (
    select count(*) as n from sums
), found as (
    select 'off' as kind,
           jsonb_build_object(case when is_org then 'organization' else 'member' end, payer,
                              'balance', balance, 'expected', coalesce(openings[1] + total, 2147483647)) as facts
    from balances
    where case when openings is null then balance < 2147483647 else not (balance - total) = any (openings) end
)
"""
)

#: I2, first look: ledgers in which some row does not go on from the one before, whole and in ledger order.
#: Which of them are really broken is decided row by row (`pipeline/audit/ledger.py`).
LEDGERS_OUT_OF_LINE = listing(
    """
, running as (
    select *, first_value(balance_after - amount) over w + sum(amount) over w as expected
    from ledger
    window w as (partition by payer, is_org order by created_at, tie, id rows unbounded preceding)
), judged as (
    select *, bool_or(least(expected, 2147483647) <> balance_after) over (partition by payer, is_org) as out_of_line
    from running
)
select id as ledger, payer, is_org, amount, balance_after, created_at from judged
where out_of_line order by payer, is_org, created_at, tie, id
"""
)
LEDGER_SIZE = listing("select count(*) from ledger")

#: I3. With `price`, a charge of anything else is wrong; without, the price that the picture's slot keeps counts, and
#: for another worker's picture any charge of zero or less will do.
PICTURES_ARE_CHARGED_ONCE = question(
    """
, charges as (
    select distinct on (attach_idx) attach_idx, amount, user_id, org_id, production_idx,
           count(*) over (partition by attach_idx) as n
    from public.quel_credits where transaction_type = 'DEDUCT' and attach_idx is not null
    order by attach_idx, created_at, id
), refunds as (
    select distinct on (attach_idx) attach_idx, amount, user_id, org_id, production_idx,
           count(*) over (partition by attach_idx) as n
    from public.quel_credits where transaction_type = 'refund' and attach_idx is not null
    order by attach_idx, created_at, id
), looked_at as (
    select count(*) as n from ids
), found as (
    select k.kind,
           jsonb_strip_nulls(jsonb_build_object(
               'job', i.job_id, 'attach', i.attach_id, 'n', case k.kind when 'refunds' then r.n else c.n end,
               'amount', case k.kind when 'refund' then r.amount else c.amount end,
               'production', case k.kind when 'production' then c.production_idx end,
               'organization', case k.kind when 'payer' then c.org_id end,
               'member', case when k.kind = 'payer' and c.org_id is null then c.user_id end,
               'owner', case when o.org_id is null then 'member ' || o.member_id
                             else 'organization ' || o.org_id || ' (member ' || o.member_id || ')' end)) as facts
    from ids i
    left join own w on w.job_id = i.job_id and w.attach_id = i.attach_id
    left join payers o on o.job_id = w.job_id
    left join charges c on c.attach_idx = i.attach_id
    left join refunds r on r.attach_idx = i.attach_id
    cross join lateral (values
        ('unpaid', c.n is null),
        ('repeated', c.n > 1),
        ('amount', c.n = 1 and (c.amount > 0 or c.amount <> -coalesce(cast(:price as int), w.price))),
        ('payer', c.n = 1 and w.job_id is not null
                  and (c.org_id is distinct from o.org_id or c.user_id is distinct from o.member_id)),
        ('production', c.n = 1 and w.job_id is not null and c.production_idx is distinct from w.production_id),
        ('refunds', r.n > 1),
        ('refund', r.n = 1 and c.n = 1 and (r.amount <> -c.amount or r.org_id is distinct from c.org_id
                   or r.user_id <> c.user_id or r.production_idx is distinct from c.production_idx))
    ) as k (kind, broken)
    where k.broken
)
"""
)

#: I4. A charge that names another provider pays for something else than our pictures. A charge that was given back
#: needs no picture.
CHARGES_HAVE_PICTURES = question(
    """
, charges as (
    select id, attach_idx, production_idx, org_id, user_id, amount, transaction_type = 'refund' as is_refund
    from public.quel_credits c
    where (transaction_type = 'DEDUCT' and coalesce(api_provider, 'gemini-banana') = 'gemini-banana'
           or transaction_type = 'refund' and attach_idx is not null)
      and (cast(:since as timestamptz) is null or created_at >= cast(:since as timestamptz))
      and (cast(:job_ids as uuid[]) is null or production_idx in (select production_id from jobs))
), looked_at as (
    select count(*) as n from charges
), found as (
    select k.kind,
           jsonb_strip_nulls(jsonb_build_object(
               'ledger', c.id, 'attach', c.attach_idx, 'production', c.production_idx, 'amount', c.amount,
               'organization', c.org_id, 'member', case when c.org_id is null then c.user_id end)) as facts
    from charges c
    cross join lateral (values
        ('no_picture', not c.is_refund and c.attach_idx is null),
        ('unearned', not c.is_refund and c.attach_idx is not null
                     and not exists (select 1 from all_ids a where a.attach_id = c.attach_idx)
                     and not exists (select 1 from public.quel_credits r
                                     where r.transaction_type = 'refund' and r.attach_idx = c.attach_idx)),
        ('refund', c.is_refund and not exists (
             select 1 from public.quel_credits d
             where d.transaction_type = 'DEDUCT' and d.attach_idx = c.attach_idx))
    ) as k (kind, broken)
    where k.broken
)
"""
)
