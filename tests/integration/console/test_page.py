"""The page at /quel: what it shows, what it does, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import re
from html import unescape
from typing import Any
from uuid import UUID, uuid4

import pytest
from dagster import DagsterRunStatus
from starlette.requests import Request

from quel_dagster.adapters.database.usage import encoded, note_usage
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.cli.doctor.finding import Finding, Result
from quel_dagster.console.page.site import Site
from quel_dagster.console.page.terminations import record_terminations
from quel_dagster.jobs.model import JobStatus, Slot
from quel_dagster.jobs.models import Usage
from quel_dagster.platform.webserver import terminations
from tests.integration.cli.conftest import Runs
from tests.integration.cli.test_acting import ended, waiting
from tests.integration.conftest import PRICE, Look, Office
from tests.integration.console.conftest import Visitor, visiting

HOSTILE = "<script>alert(1)</script>"


async def page(visitor: Visitor, path: str, **params: Any) -> str:
    answer = await asyncio.to_thread(lambda: visitor.get(path, **params))
    assert answer.status_code == 200, answer.text
    return answer.text


# --- looking ---------------------------------------------------------------------------------------------


async def test_first_page_shows_queue_work_failures_and_health(
    visitor: Visitor, office: Office, queue: JobQueue, runs: Runs
) -> None:
    queued, at_work = await office.job(3), await office.job(5)
    queue.push(queued.job_id)
    claim = await office.processing(at_work)
    await office.commit(at_work, claim, 0)
    failed = await ended(office, JobStatus.FAILED, made=0)
    visitor.findings.append(
        Finding(part="Workers", result=Result.FAILED, said="none answers", remedy="start one: quel worker")
    )
    text = await page(visitor, "/")
    for job in (queued, at_work, failed):
        assert f"/quel/jobs/{job.job_id}" in text
    assert "1 check failed" in text
    assert "start one: quel worker" in text
    assert "1/5" in text
    assert "jobs:queue" in text
    confirmations = [
        await asyncio.to_thread(visitor.client.get, f"/quel{unescape(link)}")
        for link in re.findall(r'href="/quel(/confirm\?verb=retry[^"]+)"', text)
    ]
    assert any(str(failed.job_id) in each.text for each in confirmations), (
        "two clicks from the first page rerun what failed for a reason"
    )


async def test_first_page_shows_dollars_of_today(visitor: Visitor, office: Office) -> None:
    job = await office.job(1)
    usage = encoded(Usage(input=1, image=1), model="gemini-83", calls=2, usd=1234.5)
    await note_usage(office.database, job.job_id, Slot(unit=0, number=0), usage)
    text = await page(visitor, "/")
    assert re.search(r"<b>\$1,23\d\.\d\d</b><span>Gemini today</span>", text), "today's calls, in dollars"


@pytest.mark.parametrize("named", [("x-user", "mina"), (None, "the web UI")])
async def test_terminate_in_dagsters_pages_is_a_row_of_the_action_log(
    visitor: Visitor, office: Office, runs: Runs, sql: Look, named: tuple[str | None, str]
) -> None:
    header, name = named
    job = await office.job(1)
    run_id, answer = runs.add(job.job_id), {"terminateRunResults": [{"__typename": "TerminateRunSuccess"}]}
    query = "mutation Terminate($runIds: [String!]!) {terminateRuns(runIds: $runIds) {__typename}}"
    accepted = terminations(query, {"runIds": [run_id]}, json.dumps({"data": {"terminateRuns": answer}}).encode())
    assert accepted == {run_id: True}
    assert terminations("query {runs}", {"runIds": [run_id]}, b"{}") == {}
    request = Request({"type": "http", "headers": [(b"x-user", b"mina")]})
    settings = visitor.site.settings.model_copy(update={"user_header": header})
    site = Site(settings, runs.instance, list)
    try:
        await record_terminations(site, request, accepted)
    finally:
        await site.aclose()
    row = await sql.one("select * from quel_dagster.action where job_id = %s", job.job_id)
    assert (row["actor"], row["via"], row["action"], row["result"]) == (name, "dagster", "terminate", "done")
    assert run_id in row["said"]


async def test_job_page_shows_what_was_asked_pictures_reasons_runs_and_ledger(
    visitor: Visitor, office: Office, runs: Runs
) -> None:
    prompt = f"A coat {HOSTILE}"
    job = await office.job(3, input_data={"prompt": prompt})
    claim = await office.processing(job)
    made = await office.commit(job, claim, 0)
    run_id = runs.add(job.job_id, quel__outcome="partial")
    await office.database.work.settle(
        job.job_id, claim.token, status=JobStatus.COMPLETED, total=3, error=f"Why {HOSTILE}", inputs=0
    )
    text = await page(visitor, f"/jobs/{str(job.job_id)[:13]}")
    assert f'src="/quel/pictures/{made.attach_id}?side=960"' in text
    assert f'href="/runs/{run_id}"' in text
    assert "Retry 2 missing pictures" in text
    assert f"{PRICE} credits" in text
    assert "Generated With Image" in text
    assert "partial" in text
    assert "&lt;script&gt;" in text
    assert HOSTILE not in text, "a text of outside is escaped"


async def test_everything_is_sent_with_a_strict_policy(visitor: Visitor) -> None:
    for path in ("/", "/jobs", "/dead", "/search?q=nothing", "/nowhere", "/static/style.css"):
        answer = await asyncio.to_thread(visitor.client.get, f"/quel{path}")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_search_leads_to_the_job_by_id_run_and_name(
    visitor: Visitor, office: Office, runs: Runs, sql: Look
) -> None:
    job = await office.job(1)
    await sql.all(
        "update quel_production_photo set production_name = 'Meadow 81' where production_id = %s", job.production_id
    )
    run_id = runs.add(job.job_id, DagsterRunStatus.QUEUED)
    for word in (job.job_id, str(job.job_id)[:10], job.production_id, run_id, run_id[:10], "meadow 81"):
        answer = await asyncio.to_thread(lambda word=word: visitor.get("/search", q=str(word)))
        assert answer.url.path == f"/quel/jobs/{job.job_id}", word
    assert f"/quel/jobs/{job.job_id}" in await page(visitor, "/search", q="eadow 8"), "a part of a name is a list"
    assert "Nothing matches" in await page(visitor, "/search", q=f"no such {HOSTILE}")


async def test_member_is_found_by_address_and_shows_balance_and_ledger(
    visitor: Visitor, office: Office, sql: Look
) -> None:
    member = await office.member(credit=77)
    email = (await sql.one("select quel_email from quel_member where quel_member_id = %s", member))["quel_email"]
    await ended(office, JobStatus.COMPLETED, member_id=member)
    assert f"<b>{77 - PRICE}</b>" in await page(visitor, "/search", q=email), "the only match is shown at once"
    text = await page(visitor, f"/members/{email}")
    assert f"<b>{77 - PRICE}</b>" in text
    assert "DEDUCT" in text


async def test_list_shows_only_matches(visitor: Visitor, office: Office, sql: Look) -> None:
    member = await office.member()
    failed = await ended(office, JobStatus.FAILED, member_id=member, made=0)
    partial = await ended(office, JobStatus.COMPLETED, member_id=member)
    whole = await ended(office, JobStatus.COMPLETED, member_id=member, made=3)

    async def shown(**params: Any) -> set[UUID]:
        text = await page(visitor, "/jobs", member=str(member), **params)
        return {job.job_id for job in (failed, partial, whole) if f"/jobs/{job.job_id}" in text}

    assert await shown() == {failed.job_id, partial.job_id, whole.job_id}
    assert await shown(status=["failed", "partial"], ended="1h") == {failed.job_id, partial.job_id}
    assert await shown(status="partial") == {partial.job_id}
    assert await shown(reason="why.", status="failed") == {failed.job_id}
    answer = await asyncio.to_thread(lambda: visitor.get("/jobs", status="nonsense"))
    assert answer.status_code == 400
    assert "nonsense" in answer.text


async def test_unknown_things_are_404_with_a_sentence(visitor: Visitor) -> None:
    for path in (f"/jobs/{uuid4()}", "/jobs/no such job", "/pictures/9223372036854775807", "/pictures/1" + "0" * 30):
        answer = await asyncio.to_thread(lambda path=path: visitor.get(path))
        assert answer.status_code == 404
        assert "Traceback" not in answer.text


# --- acting ----------------------------------------------------------------------------------------------


async def test_retry_by_filter_is_confirmed_then_done(
    visitor: Visitor, office: Office, queue: JobQueue, sql: Look
) -> None:
    member = await office.member()
    partial = await ended(office, JobStatus.COMPLETED, member_id=member)
    await sql.all(
        "update quel_production_photo set production_name = 'Meadow 82' where production_id = %s", partial.production_id
    )
    await ended(office, JobStatus.COMPLETED, member_id=member, made=3)
    fields = await asyncio.to_thread(lambda: visitor.form(verb="retry", status="partial", member=str(member)))
    assert fields["job"] == [str(partial.job_id)]
    assert "Meadow 82" in await page(visitor, "/confirm", verb="retry", status="partial", member=str(member))
    assert waiting(queue) == [], "a confirmation does nothing"
    answer = await asyncio.to_thread(lambda: visitor.send(fields, operator="Mina", reason="a try"))
    assert "pushed again" in answer.text
    assert waiting(queue) == [partial.job_id]


async def test_below_a_path_every_link_stays_there_and_actions_work(
    runs: Runs, office: Office, queue: JobQueue
) -> None:
    job = await ended(office, JobStatus.FAILED, made=0)

    def visit() -> None:
        with visiting(runs, "/ops") as visitor:
            text = visitor.get("/").text
            links = re.findall(r'(?:href|src|action)="([^"]+)"', text)
            assert len(links) > 10
            assert [link for link in links if not link.startswith(("/ops/", "#", "data:"))] == []
            assert visitor.client.get("/ops/quel", follow_redirects=False).headers["location"] == "/ops/quel/"
            answer = visitor.send(visitor.form(verb="retry", job=str(job.job_id)), operator="Mina")
            assert answer.status_code == 200, answer.text

    await asyncio.to_thread(visit)
    assert waiting(queue) == [job.job_id]


async def test_cancel_of_one_job(visitor: Visitor, office: Office, sql: Look) -> None:
    job = await office.job(2)
    fields = await asyncio.to_thread(lambda: visitor.form(verb="cancel", job=str(job.job_id)))
    await asyncio.to_thread(lambda: visitor.send(fields, operator="Mina"))
    assert "cancelled" in (await sql.job(job.job_id))["job_status"]


async def test_pause_and_resume_the_intake(visitor: Visitor, queue: JobQueue) -> None:
    fields = await asyncio.to_thread(lambda: visitor.form(verb="pause"))
    await asyncio.to_thread(lambda: visitor.send(fields, operator="Mina", reason="the store is moved"))
    text = await page(visitor, "/")
    assert "by Mina: the store is moved" in text
    fields = await asyncio.to_thread(lambda: visitor.form(verb="resume"))
    await asyncio.to_thread(lambda: visitor.send(fields, operator="Mina"))
    assert not queue.client.keys("quel:intake:*")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", None])
async def test_a_form_of_another_site_does_nothing(
    visitor: Visitor, office: Office, queue: JobQueue, origin: str | None
) -> None:
    job = await ended(office, JobStatus.FAILED, made=0)
    fields = await asyncio.to_thread(lambda: visitor.form(verb="retry", job=str(job.job_id)))
    answer = await asyncio.to_thread(lambda: visitor.send(fields, operator="Mina", origin=origin))
    assert answer.status_code == 400
    assert waiting(queue) == []


async def test_a_form_for_other_jobs_than_confirmed_does_nothing(
    visitor: Visitor, office: Office, queue: JobQueue
) -> None:
    mine, other = await ended(office, JobStatus.FAILED, made=0), await ended(office, JobStatus.FAILED, made=0)
    fields = await asyncio.to_thread(lambda: visitor.form(verb="retry", job=str(mine.job_id)))
    for change in ({"job": [str(other.job_id)]}, {"verb": "cancel"}, {"token": "0" * 64}, {"token": ""}):
        answer = await asyncio.to_thread(lambda change=change: visitor.send({**fields, **change}, operator="Mina"))
        assert answer.status_code == 400, change
    assert waiting(queue) == []


async def test_an_action_needs_a_name(visitor: Visitor, office: Office, queue: JobQueue) -> None:
    job = await ended(office, JobStatus.FAILED, made=0)
    fields = await asyncio.to_thread(lambda: visitor.form(verb="retry", job=str(job.job_id)))
    assert "name is missing" in (await asyncio.to_thread(lambda: visitor.send(fields, operator=" "))).text
    assert waiting(queue) == []


async def test_refund_from_the_page_is_confirmed_and_logged_with_the_users_name(
    visitor: Visitor, office: Office, sql: Look
) -> None:
    member = await office.member(credit=100)
    job = await ended(office, JobStatus.COMPLETED, made=2, member_id=member)
    assert "verb=refund" in await page(visitor, f"/jobs/{job.job_id}")
    fields = await asyncio.to_thread(lambda: visitor.form(verb="refund", job=str(job.job_id)))
    assert f"would be refunded: {2 * PRICE} credits" in await page(
        visitor, "/confirm", verb="refund", job=str(job.job_id)
    )
    assert "The reason is missing" in (await asyncio.to_thread(lambda: visitor.send(fields, operator="Mina"))).text
    answer = await asyncio.to_thread(lambda: visitor.send(fields, operator="Mina", reason="blurred 84"))
    assert answer.text.count("credits refunded") == 2
    row = await sql.one("select quel_member_credit from quel_member where quel_member_id = %s", member)
    assert row["quel_member_credit"] == 100
    log = await page(visitor, "/actions")
    assert "blurred 84" in log
    assert "refund by Mina (page)" in await page(visitor, f"/jobs/{job.job_id}")
    assert "verb=refund" not in await page(visitor, f"/jobs/{job.job_id}"), "nothing is left to refund"


async def test_the_users_name_comes_from_the_proxys_header_when_a_setting_names_it(
    visitor: Visitor, office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visitor.site, "settings", visitor.site.settings.model_copy(update={"user_header": "X-User"}))
    visitor.client.headers["X-User"] = "juno@quel.example"
    job = await ended(office, JobStatus.FAILED, made=0)
    fields = await asyncio.to_thread(lambda: visitor.form(verb="retry", job=str(job.job_id)))
    await asyncio.to_thread(lambda: visitor.send(fields, operator="another operator"))
    assert "retry by juno@quel.example (page)" in await page(visitor, f"/jobs/{job.job_id}")
