"""`quel list`, `quel status`, `quel show`: what they say of jobs in every state."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from dagster import DagsterRunStatus

from quel_dagster.adapters.database.records import OutputPlace
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.jobs.model import JobStatus
from tests.integration.cli.conftest import WEB_UI, Answer, Quel, Runs
from tests.integration.conftest import Look, NewlyMade, Office, claim

TWO_COMBINATIONS: dict[str, Any] = {
    "basePrompt": "A red coat in the rain",
    "individualImageAttachIds": [{"attachId": 4_000_000_001.0, "type": "model"}],
    "combinations": [
        {"angle": "front", "shot": "full", "quantity": "2"},
        {"angle": "side", "shot": "tight", "quantity": 2},
    ],
}


async def partly_made(office: Office, **more: Any) -> NewlyMade:
    """A completed job with one of its four pictures, the first of the second unit."""
    job = await office.job(4, job_type="single_batch", input_data=TWO_COMBINATIONS, **more)
    claim = await office.processing(job)
    await office.commit(job, claim, 0, unit=1)
    await office.database.work.settle(
        job.job_id, claim.token, status=JobStatus.COMPLETED, total=4, error="3 of 4 pictures failed.", inputs=1
    )
    return job


# --- list ------------------------------------------------------------------------------------------------


async def test_list_filters_and_puts_the_newest_first(quel: Quel, office: Office, sql: Look) -> None:
    member = await office.member()
    org = await office.organization(member)
    old = await office.job(2, member_id=member, path="beauty")
    await sql.all(
        "update quel_production_jobs set created_at = now() - %s where job_id = %s", timedelta(hours=30), old.job_id
    )
    paid = await office.job(2, member_id=member, org_id=org, path="cinema")
    done = await partly_made(office, member_id=member, path="nonsense")

    async def listed(*words: object) -> list[str]:
        return [job["job_id"] for job in (await quel("list", "--json", "--member", member, *words)).ok().data]

    names = [str(job.job_id) for job in (done, paid, old)]
    assert await listed() == names
    assert await listed("--since", "24h") == names[:2]
    assert await listed("--status", "completed") == names[:1]
    assert await listed("--status", "completed", "--open") == names
    assert await listed("--open") == [names[2], names[1]], "in the order of service"
    assert await listed("--category", "beauty") == names[2:]
    assert await listed("--category", "fashion") == names[:1], "an unknown path counts as fashion"
    assert await listed("--org", org) == [names[1]]
    assert await listed("--limit", "1") == names[:1]


async def test_since_finds_a_job_that_was_created_before_and_ended_after(quel: Quel, office: Office, sql: Look) -> None:
    member = await office.member()
    waited_long = await partly_made(office, member_id=member)
    ended_long_ago = await partly_made(office, member_id=member)
    for job, created, completed in ((waited_long, 5, 0), (ended_long_ago, 5, 4)):
        await sql.all(
            "update quel_production_jobs set created_at = now() - make_interval(hours => %s),"
            " completed_at = now() - make_interval(hours => %s) where job_id = %s",
            created,
            completed,
            job.job_id,
        )
    words = ("--member", member, "--status", "partial", "--since", "1h", "--json")
    listed = (await quel("list", *words)).ok().data
    assert [job["job_id"] for job in listed] == [str(waited_long.job_id)]
    retried = (await quel("retry", "--dry-run", *words)).ok().data
    assert [result["job_id"] for result in retried] == [str(waited_long.job_id)]


async def test_list_cuts_no_id_and_reports_further_jobs(quel: Quel, office: Office) -> None:
    member = await office.member()
    jobs = [await office.job(2, member_id=member) for _ in range(3)]
    out = (await quel("list", "--member", member, "--limit", 2)).ok().out
    assert str(jobs[2].job_id) in out
    assert str(jobs[0].job_id) not in out
    assert "0/2" in out
    assert "more than 2 jobs" in out


async def test_list_of_nothing(quel: Quel) -> None:
    assert (await quel("list", "--member", uuid4())).ok().out == "No job matches.\n"
    assert (await quel("list", "--json", "--member", uuid4())).ok().data == []


@pytest.mark.parametrize(
    "words", [("--since", "yesterday-ish"), ("--status", "lost"), ("--category", "music"), ("--limit", "0")]
)
def test_list_refuses_what_it_cannot_read(quel: Quel, words: tuple[str, str]) -> None:
    assert words[0] in quel.now("list", *words).wrong(2).err


# --- status ----------------------------------------------------------------------------------------------


async def test_status_of_one_job_with_its_runs(quel: Quel, office: Office, runs: Runs) -> None:
    job = await partly_made(office)
    run = runs.add(job.job_id, DagsterRunStatus.FAILURE)
    out = (await quel("status", job.job_id)).ok().out
    for shown in ("completed", "1 of 4, 3 failed", "3 of 4 pictures failed.", f"{WEB_UI}/runs/{run}", "FAILURE"):
        assert shown in out
    data = (await quel("status", job.job_id, "--json")).ok().data
    assert (data["status"], data["credits"], len(data["pictures"])) == ("completed", 20, 1)
    assert [(known["run_id"], known["url"]) for known in data["runs"]] == [(run, f"{WEB_UI}/runs/{run}")]


async def test_status_of_several_jobs_names_missing_ones(quel: Quel, office: Office) -> None:
    first, second, stranger = await office.job(2), await office.job(3), uuid4()
    answer = (await quel("status", first.job_id, second.job_id, stranger)).wrong()
    assert str(first.job_id) in answer.out
    assert str(second.job_id) in answer.out
    assert str(stranger) in answer.err
    data = (await quel("status", "--json", first.job_id, second.job_id)).ok().data
    assert [job["job_id"] for job in data] == [str(first.job_id), str(second.job_id)]
    assert str(stranger) in (await quel("status", "--json", stranger)).wrong().err


async def test_status_without_dagster_still_shows_the_rows(
    quel: Quel, office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await office.job(2)
    monkeypatch.delenv("DAGSTER_HOME")
    answer = (await quel("status", job.job_id)).ok()
    assert "pending" in answer.out
    assert "DAGSTER_HOME is not set" in answer.out
    assert (await quel("status", "--json", job.job_id)).ok().data["runs"] is None


async def test_watching_follows_jobs_to_their_end(quel: Quel, office: Office, database: Database) -> None:
    good, bad = await office.job(2), await office.job(1)
    claims = [await office.processing(job) for job in (good, bad)]
    watching = asyncio.create_task(quel("status", "--watch", good.job_id, bad.job_id))
    await office.commit(good, claims[0], 0)
    assert not watching.done(), "it came back before the end"
    await office.commit(good, claims[0], 1)
    await database.work.settle(good.job_id, claims[0].token, status=JobStatus.COMPLETED, total=2, error=None, inputs=0)
    await database.work.settle(
        bad.job_id, claims[1].token, status=JobStatus.FAILED, total=1, error="Blocked.", inputs=0
    )
    answer = (await watching).wrong()  # one of them failed
    assert f"{good.job_id}  completed  2/2" in answer.out
    assert f"{bad.job_id}  failed  0/1" in answer.out
    assert (await quel("status", "--watch", "--json", good.job_id)).ok().data["completed_images"] == 2


# --- show ------------------------------------------------------------------------------------------------


async def test_show_has_everything_about_a_partly_made_job(
    quel: Quel, office: Office, database: Database, runs: Runs
) -> None:
    job = await partly_made(office, credit=50)
    run = runs.add(job.job_id, DagsterRunStatus.SUCCESS, quel__outcome="partial")
    value = {
        "unit": {},
        "made": [],
        "failed": [{"slot": {"unit": 0, "number": 1}, "reason": "Gemini declined: SAFETY"}],
    }
    place = OutputPlace(run, "make_images.generate[combo0_front_full]", "result")
    await database.work.write_op_outputs({place: value})
    data = (await quel("show", "--json", job.job_id)).ok().data
    assert [unit["key"] for unit in data["plan"]["units"]] == ["combo0_front_full", "combo1_side_tight"]
    assert data["plan"]["repairs"], "quantity was a string, attachId a float"
    assert data["unusable_references"] == {"4000000001": "quel_attach has no such row"}
    (picture,) = data["pictures"]
    assert (picture["slot"], picture["unit"], picture["size"]) == ("u0001_p0000", "combo1_side_tight", 1234)
    assert (picture["amount"], picture["balance_after"]) == (-20, 30)
    assert [(gap["slot"], gap["reason"]) for gap in data["missing"]] == [
        ("u0000_p0000", None),
        ("u0000_p0001", "Gemini declined: SAFETY"),
        ("u0001_p0001", None),
    ]
    assert data["payer"] == {"kind": "member", "id": str(job.member_id), "name": "Mina", "credit": 30, "refusal": None}
    assert (data["credits"], data["job"]["estimated_credits"]) == (20, 80)
    assert [(known["outcome"], known["url"]) for known in data["runs"]] == [("partial", f"{WEB_UI}/runs/{run}")]
    assert data["production"]["production_id"] == str(job.production_id)
    assert any("30 credits, and the missing pictures cost 60" in sentence for sentence in data["next"])
    assert data["next"][-1].endswith(f"quel retry {job.job_id}")

    out = (await quel("show", job.job_id)).ok().out
    for shown in (
        "front · full",
        "4000000001 model ✗",
        "Gemini declined: SAFETY",
        str(picture["key"]),
        "partial",
        f"{WEB_UI}/runs/{run}",
        f"{WEB_UI}/quel/jobs/{job.job_id}",
        "3 of 4 pictures failed.",
        "member",
        "30 credits left",
        f"quel retry {job.job_id}",
    ):
        assert shown in out, shown


async def test_show_names_the_place_in_the_queue(quel: Quel, office: Office, queue: JobQueue) -> None:
    first, job = await office.job(2), await office.job(2)
    queue.push(first.job_id, job.job_id)
    redis = (await quel("show", "--json", job.job_id)).ok().data["redis"]
    assert (redis["position"], redis["waiting"], redis["processing"]) == (2, 2, False)
    assert "number 2 of 2 in jobs:queue" in (await quel("show", job.job_id)).ok().out
    claim(queue, 2)
    redis = (await quel("show", "--json", job.job_id)).ok().data["redis"]
    assert (redis["position"], redis["processing"]) == (None, True)


async def test_show_a_running_job_and_one_without_its_worker(quel: Quel, office: Office, sql: Look) -> None:
    job = await office.job(2)
    await office.processing(job, run_id="run-77")
    assert "run-77 on test:1" in (await quel("show", job.job_id)).ok().out
    await sql.all(
        "update quel_dagster.job_lease set expires_at = now() - interval '40 s' where job_id = %s", job.job_id
    )
    data = (await quel("show", "--json", job.job_id)).ok().data
    assert data["lease"]["seconds_left"] < -39
    assert "expired 4" in data["next"][0]


async def test_show_a_job_that_cannot_be_planned(quel: Quel, office: Office, database: Database) -> None:
    job = await office.job(100_000)
    await database.recovery.end_abandoned(job.job_id, status=JobStatus.FAILED, error="total_images: too many")
    data = (await quel("show", "--json", job.job_id)).ok().data
    assert data["plan"] is None
    assert "total_images" in data["plan_error"]
    assert "has to send a corrected job" in data["next"][0]


async def test_show_a_cancelled_job_and_its_dead_letter(
    quel: Quel, office: Office, database: Database, queue: JobQueue
) -> None:
    job = await office.job(2)
    queue.cancel(job.job_id)
    queue.dead_letter_job(job.job_id, "given up")
    await database.work.keep_cancel(job.job_id)
    out = (await quel("show", job.job_id)).ok().out
    assert "flag set in Redis, kept since" in out
    assert "given up" in out
    assert "It is being cancelled" in out
    assert f"quel dead show {queue.letters()[0].name}" in out


async def test_show_keeps_the_terminal_safe_from_what_users_typed(quel: Quel, office: Office) -> None:
    job = await office.job(1, input_data={"prompt": "red \x1b[31mdress [bold]\u202e now"})
    out = (await quel("show", job.job_id)).ok().out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "[bold]" in out


async def test_show_a_picture_of_the_older_worker(quel: Quel, office: Office) -> None:
    job = await office.job(2)
    attach_id = await office.foreign_picture(job)
    data = (await quel("show", "--json", job.job_id)).ok().data
    assert [(picture["attach_id"], picture["slot"]) for picture in data["pictures"]] == [(attach_id, None)]
    assert len(data["missing"]) == 1
    assert "another worker's" in (await quel("show", job.job_id)).ok().out


async def test_show_nothing(quel: Quel) -> None:
    job_id = uuid4()
    answer: Answer = (await quel("show", job_id)).wrong()
    assert str(job_id) in answer.err
    assert answer.out == ""
    assert (await quel("show", "no such name")).wrong().out == ""
