"""The rules of a web app: people, their credits, and the jobs that they push."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.integration.model.model import PRICE, Job, Model, Payer, Production
from tests.integration.model.world import World

MOST_JOBS, MOST_OPEN_JOBS = 10, 4
#: of a job or a person, in a list
places = st.integers(0, 11)
_plans = st.lists(st.integers(1, 3), min_size=1, max_size=4)


def _takes_jobs(self: WebApp) -> bool:
    return len(self.model.jobs) < MOST_JOBS and sum(job.open for job in self.model.jobs) < MOST_OPEN_JOBS


class WebApp(RuleBasedStateMachine):
    """Two members and their organization."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.model = Model()

    def teardown(self) -> None:
        self.world.forget()

    @initialize(credits=st.lists(st.integers(0, 12), min_size=3, max_size=3), plan=_plans)
    def people(self, credits: list[int], plan: list[int]) -> None:  # noqa: A002
        opening = [credit * PRICE + 5 for credit in credits]
        self.owner = Payer(self.world.member(opening[0]), opening[0])
        self.mina = Payer(self.world.member(opening[1]), opening[1])
        self.org = Payer(self.world.organization(self.owner.id, self.mina.id, opening[2]), opening[2])
        self.model.payers = [self.owner, self.mina, self.org]
        self._push(0, True, plan, beside=False)
        self._push(0, False, plan, beside=False)

    @precondition(_takes_jobs)
    @rule(place=places, for_org=st.booleans(), plan=_plans, beside=st.booleans())
    def push(self, place: int, for_org: bool, plan: list[int], beside: bool) -> None:
        self._push(place, for_org, plan, beside=beside)

    def _push(self, place: int, for_org: bool, plan: list[int], *, beside: bool) -> None:
        """Push a job of a production of its own, or `beside` another job in one."""
        slots = tuple((unit, number) for unit, quantity in enumerate(plan) for number in range(quantity))
        org = self.org if for_org else None
        if beside:
            production = self._job(place).production
        else:
            member = (self.mina, self.owner)[place % 2]
            production = Production(self.world.production(member.id), member)
            self.model.productions.append(production)
        job_id = self.world.job(production.id, production.member.id, org.id if org else None, len(slots))
        job = Job(job_id, production, production.member, org, slots)
        self.model.jobs.append(job)
        production.jobs.append(job)

    @rule(place=places, status=st.booleans())
    def change_people(self, place: int, status: bool) -> None:
        if status:
            self._suspend_or_readmit(place)
        else:
            self._leave_or_join()

    def _suspend_or_readmit(self, place: int) -> None:
        """Suspend a payer; while one is suspended, readmit that one."""
        payers = self.model.payers
        payer = next((payer for payer in payers if not payer.active), payers[place % len(payers)])
        payer.active = not payer.active
        status = "active" if payer.active else "suspended"
        if payer is self.org:
            self.world.rows("update quel_organization set org_status = %s where org_id = %s", status, payer.id)
        else:
            self.world.rows(
                "update quel_member set quel_member_status = %s where quel_member_id = %s", status, payer.id
            )

    def _leave_or_join(self) -> None:
        self.model.left ^= {self.mina.id}
        status = "left" if self.mina.id in self.model.left else "active"
        self.world.rows("update quel_organization_member set status = %s where org_id = %s", status, self.org.id)

    @rule(place=places, pictures=st.integers(1, 3))
    def add_credit(self, place: int, pictures: int) -> None:
        payer = self.model.payers[place % 3]
        amount = pictures * PRICE
        payer.book(amount)
        is_org = payer is self.org
        table, key, column = (
            ("quel_organization", "org_id", "org_credit")
            if is_org
            else ("quel_member", "quel_member_id", "quel_member_credit")
        )
        self.world.rows(
            f"with paid as (update {table} set {column} = {column} + %s where {key} = %s returning {column} as now)"  # noqa: S608
            " insert into quel_credits (user_id, org_id, transaction_type, amount, balance_after)"
            " select %s, %s, 'purchase', %s, now from paid",
            amount,
            payer.id,
            self.owner.id if is_org else payer.id,
            payer.id if is_org else None,
            amount,
        )

    def _job(self, place: int) -> Job:
        return self.model.jobs[place % len(self.model.jobs)]
