"""Everything that Gemini can answer, through the whole installation: retried or named, never charged."""

from __future__ import annotations

import asyncio

import pytest
import redis
from dagster import DagsterEventType, DagsterRunStatus

from quel_dagster.adapters.intake import intake_paused
from quel_dagster.sandbox.gemini_state import Behaviour, Rule
from tests.faults.desk import Desk
from tests.faults.installation import GEMINI_KEY, PRICE
from tests.integration.conftest import eventually

#: passes by itself: two bad answers, then good ones
PASSING = [
    Behaviour.RATE_LIMITED,
    Behaviour.SERVER_ERROR,
    Behaviour.UNAVAILABLE,
    Behaviour.RESET,
    Behaviour.CUT,
    Behaviour.TRUNCATED_JSON,
    Behaviour.NOT_JSON,
    Behaviour.WRONG_SHAPE,
    Behaviour.NO_PICTURE,
    Behaviour.ZERO_BYTES,
]
#: final for this picture, and what its reason says
FINAL = {
    Behaviour.SAFETY_BLOCK: "Gemini blocked the request",
    Behaviour.IMAGE_SAFETY: "Gemini declined to make this picture",
    Behaviour.TEXT_ONLY: r"words instead of a picture.* \(tried 3 times\)",
    Behaviour.WRONG_MIME: r"instead of a picture\. \(tried 3 times\)",
    Behaviour.NO_IMAGE: r"NO_IMAGE.* \(tried 3 times\)",
}


#: every how many-th of a list: each by itself is tested in tests/integration/gemini
some_or_all = pytest.mark.parametrize(
    "every", [pytest.param(4, id="some"), pytest.param(1, id="all", marks=pytest.mark.fault_all)]
)


@some_or_all
async def test_what_passes_is_tried_again(desk: Desk, every: int) -> None:
    jobs = {}
    for behaviour in PASSING[::every]:
        word = f"word{behaviour.name.lower()}"
        desk.site.gemini.state.add_rules(Rule(behaviour=behaviour, times=2, match=word))
        jobs[behaviour] = await desk.job(1, prompt=word)
    for behaviour, job_id in jobs.items():
        row = await desk.until_ended(job_id)
        assert (row["status"], row["completed_images"]) == ("completed", 1), (behaviour, row["error_message"])
        assert desk.charged(job_id) == PRICE


@some_or_all
async def test_what_stays_is_named_and_costs_nothing(desk: Desk, every: int) -> None:
    """And the other picture of the job is made."""
    jobs = {}
    for behaviour in list(FINAL)[::every]:
        word = f"word{behaviour.name.lower()}"
        desk.site.gemini.state.add_rules(Rule(behaviour=behaviour, times=None, match=word))
        jobs[behaviour] = await desk.job(
            2,
            job_type="pipeline_stage",
            input_data={"stages": [{"prompt": word, "quantity": 1}, {"prompt": "a fine coat", "quantity": 1}]},
        )
        desk.excuse(FINAL[behaviour], jobs[behaviour], pictures=1)
    for behaviour, job_id in jobs.items():
        row = await desk.until_ended(job_id)
        assert (row["status"], row["completed_images"], row["failed_images"]) == ("completed", 1, 1), behaviour
        assert row["error_message"], behaviour
        assert GEMINI_KEY not in row["error_message"]
        assert desk.charged(job_id) == PRICE


@pytest.mark.parametrize(
    "behaviour", [Behaviour.FORBIDDEN, pytest.param(Behaviour.BAD_KEY, marks=pytest.mark.fault_all)]
)
async def test_a_bad_key_ends_the_job_at_once(desk: Desk, behaviour: Behaviour) -> None:
    desk.site.gemini.state.add_rules(Rule(behaviour=behaviour))
    job_id = await desk.job(10)
    desk.excuse("Gemini refuses every request of this installation", job_id)
    row = await desk.until_ended(job_id)
    assert (row["status"], row["completed_images"], row["failed_images"]) == ("failed", 0, 10)
    assert row["error_message"]
    assert desk.charged(job_id) == 0
    assert desk.site.gemini.state.report()["total"] <= 2


@pytest.mark.fault_all
@pytest.mark.parametrize("behaviour", [Behaviour.HANG, Behaviour.DRIP])
async def test_an_answer_that_never_ends(desk: Desk, behaviour: Behaviour) -> None:
    """Every call has a deadline."""
    desk.site.gemini.state.add_rules(Rule(behaviour=behaviour, times=2))
    job_id = await desk.job(2)
    row = await desk.until_ended(job_id)
    assert (row["status"], row["completed_images"]) == ("completed", 2), row["error_message"]


async def test_overloaded_gemini_no_job_fails_and_none_begins_until_it_is_back(desk: Desk) -> None:
    """Before: seven jobs failed in 84 s, 43 calls for one of them."""
    gemini = desk.site.gemini.state
    gemini.add_rules(Rule(behaviour=Behaviour.UNAVAILABLE))
    jobs = [await desk.job(2) for _ in range(7)]
    with redis.Redis.from_url(desk.site.redis_url) as client:

        async def paused() -> bool:
            return intake_paused(client) is not None

        await eventually(paused, seconds=60)
    calls = len(gemini.requests)
    gemini.reset()
    for job_id in jobs:
        row = await desk.until_ended(job_id)
        assert (row["status"], row["completed_images"], row["error_message"]) == ("completed", 2, None)
        assert desk.charged(job_id) == 2 * PRICE
    assert calls < 43, "the overload took fewer calls for all than for one job before"


@pytest.mark.fault_all
async def test_gemini_is_permanently_unreachable(desk: Desk) -> None:
    """The job fails in bounded time with the reason, without trying every picture."""
    desk.site.proxies.gemini.refuse()
    job_id = await desk.job(20)
    desk.excuse("Cannot reach Gemini|The connection to Gemini at .* broke", job_id)
    row = await desk.until_ended(job_id)
    assert (row["status"], row["completed_images"]) == ("failed", 0)
    assert "Gemini" in row["error_message"]
    assert desk.charged(job_id) == 0


@pytest.mark.fault_all
async def test_a_storm_of_429(desk: Desk) -> None:
    """The quota admits four pictures in four seconds; the answer names the time of the next attempt."""
    desk.site.gemini.state.set_quota(4, 4.0)
    jobs = [await desk.job(4) for _ in range(2)]
    desk.excuse(r"Gemini's quota is used up for the moment.* \(tried 3 times\)", *jobs)
    rows = await asyncio.gather(*(desk.until_ended(job_id) for job_id in jobs))
    for row in rows:
        assert row["status"] == "completed"
        assert row["completed_images"] + row["failed_images"] == 4


@pytest.mark.own_hosts
async def test_four_runs_on_two_processes_use_the_quota_with_few_refusals(desk: Desk) -> None:
    """With 12 calls in any 8 s (the minute of this test), the 36th call begins at the earliest 16 s after the first."""
    limit, minute, margin = 12, 8.0, 0.5
    pictures = (6, 6, 12, 12)
    gemini = desk.site.gemini.state
    gemini.set_quota(limit, minute)
    host = desk.site.add_host(
        "b",
        children=2,
        runs_per_process=2,
        environment={
            "QUEL_GEMINI_REQUESTS_PER_MINUTE": f"{limit}",
            "QUEL_MAX_CONCURRENT_IMAGES": "6",
            "FAULTS_MINUTE": f"{minute},{margin}",
        },
    )

    jobs = [await desk.job(total) for total in pictures]
    await desk.until_at_rest()

    requests = gemini.requests
    rejected = sum(request.outcome == "429" for request in requests)
    took = max(request.time + (request.seconds or 0.0) for request in requests) - requests[0].time
    at_least = (sum(pictures) / limit - 1) * minute
    assert tuple(desk.row(job_id)["completed_images"] for job_id in jobs) == pictures
    assert rejected <= 3, f"{rejected} of {len(requests)} requests were refused"
    assert len(requests) - rejected == sum(pictures), "a call for each picture"
    assert took < 5 * at_least, f"a hang: {took:.0f} s, where the quota alone takes {at_least:.0f} s"
    runs = [run for job_id in jobs for run in desk.runs(job_id)]
    assert [(run.status, desk.host_of(run)) for run in runs] == [(DagsterRunStatus.SUCCESS, host.name)] * 4
    waited = sum(_waited_for_quota(desk, run.run_id) for run in runs)
    assert waited > at_least, f"the pages of the runs say that calls waited {waited:.1f} s for the quota"


def _waited_for_quota(desk: Desk, run_id: str) -> float:
    """Return the seconds on the run's page, summed over its units; each picture waits by itself."""
    logs = desk.site.instance.all_logs(run_id, of_type=DagsterEventType.STEP_OUTPUT)
    said = [entry.get_dagster_event().step_output_data.metadata.get("waited_for_quota_seconds") for entry in logs]
    return sum(float(value.value) for value in said if value is not None)
