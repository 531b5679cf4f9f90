"""`quel dead`: dead letters are shown without harm, go back only where that helps, and are dropped on purpose."""

from __future__ import annotations

from uuid import uuid4

import pytest
import redis

from quel_dagster.adapters.queue import DEAD, QUEUE, JobQueue
from tests.integration.cli.conftest import Quel
from tests.integration.conftest import Office, claim


@pytest.fixture
def dead_letters(queue: JobQueue, redis_url: str) -> JobQueue:
    """Letters of everything that was ever pushed by mistake."""
    with redis.Redis.from_url(redis_url) as client:
        client.lpush(QUEUE, "not \x1b[31ma uuid\u202e", b"\xff\x00\xfe", "x" * 5000)
        queue.dead_letter_long_entries("not a UUID")
        claim(queue, 9)
        for delivery in queue.deliveries():
            queue.dead_letter(delivery, "not a UUID")
        client.lpush(DEAD, "of [b]another[/b] program")
    return queue


async def test_dead_letters_never_show_raw_bytes(quel: Quel, dead_letters: JobQueue) -> None:
    outputs = [(await quel("dead", "list")).ok().out, (await quel("dead", "list", "--json")).ok().out]
    outputs += [(await quel("dead", "show", letter.name)).ok().out for letter in dead_letters.letters()]
    for out in outputs:
        assert "\x1b" not in out
        assert "\\u202e" in out or "\u202e" not in out
        assert "\x00" not in out
        assert "xxxxx" not in out
    assert "not \\x1b[31ma uuid" in outputs[0]
    assert "5000" in outputs[0]
    assert "(not kept)" in outputs[0]
    assert "not written by Quel" in outputs[0]


async def test_dead_list_shows_the_newest_and_counts_the_rest(quel: Quel, queue: JobQueue) -> None:
    ids = [uuid4() for _ in range(3)]
    for number, job_id in enumerate(ids):
        queue.dead_letter_job(job_id, f"reason {number}")
    out = (await quel("dead", "list", "--limit", 2)).ok().out
    assert out.index("reason 2") < out.index("reason 1")
    assert "reason 0" not in out
    assert "3 letters in all" in out
    (newest, *_) = (await quel("dead", "list", "--json")).ok().data
    assert (newest["job_id"], newest["value"], newest["length"]) == (str(ids[2]), str(ids[2]), 36)


async def test_an_empty_list(quel: Quel) -> None:
    assert (await quel("dead", "list")).ok().out == "jobs:dead is empty.\n"
    assert (await quel("dead", "list", "--json")).ok().data == []
    assert (await quel("dead", "requeue", "--all")).ok().out == "jobs:dead is empty.\n"


async def test_requeue_moves_only_what_can_run(quel: Quel, office: Office, dead_letters: JobQueue) -> None:
    job, stranger = await office.job(2), uuid4()
    dead_letters.dead_letter_job(job.job_id, "given up")
    dead_letters.dead_letter_job(stranger, "no such row")
    before = len(dead_letters.letters())
    answer = (await quel("dead", "requeue", "--all")).wrong()
    assert f"{job.job_id} is in jobs:again" in answer.out
    assert f"job {stranger} has no row" in answer.out
    assert "its entry is not a job id" in answer.out
    assert "too long to keep" in answer.out
    assert dead_letters.waiting() == {str(job.job_id).encode()}
    assert len(dead_letters.letters()) == before - 1


async def test_requeue_by_job_id_pushes_once_however_many_letters_there_are(
    quel: Quel, office: Office, queue: JobQueue
) -> None:
    job = await office.job(2)
    queue.dead_letter_job(job.job_id, "first")
    queue.dead_letter_job(job.job_id, "second")
    done = (await quel("dead", "requeue", job.job_id, "--json")).ok().data
    assert [deed["requeued"] for deed in done] == [True, True]
    assert queue.letters() == []
    assert queue.depths()["again"] == 1


async def test_requeue_of_a_foreign_kind_is_refused(quel: Quel, office: Office, queue: JobQueue) -> None:
    job = await office.job(1, path="landing")
    queue.dead_letter_job(job.job_id, "landing")
    answer = (await quel("dead", "requeue", job.job_id)).wrong()
    assert "stays, it is a job of kind landing, which only the older worker makes" in answer.out
    assert queue.depths() == {"again": 0, "queue": 0, "processing": 0, "dead": 1}


async def test_show_tells_whether_a_letter_can_be_requeued(quel: Quel, office: Office, queue: JobQueue) -> None:
    job, stranger = await office.job(2), uuid4()
    queue.dead_letter_job(job.job_id, "given up")
    queue.dead_letter_job(stranger, "no such row")
    letters = {letter.job_id: letter for letter in queue.letters()}
    mine = letters[job.job_id].name
    assert f"quel dead requeue {mine}" in (await quel("dead", "show", mine)).ok().out
    assert f"quel dead drop {letters[stranger].name}" in (await quel("dead", "show", stranger)).ok().out
    (data,) = (await quel("dead", "show", "--json", mine)).ok().data
    assert data["can_be_requeued"] is True


async def test_drop_asks_first(quel: Quel, queue: JobQueue) -> None:
    queue.dead_letter_job(uuid4(), "one")
    queue.dead_letter_job(uuid4(), "two")
    newest, oldest = queue.letters()
    answer = await quel("dead", "drop", newest.name, stdin="n\n")
    assert answer.code == 1
    assert len(queue.letters()) == 2
    await quel("dead", "drop", newest.name[:6], stdin="y\n")
    assert queue.letters() == [oldest]
    assert (await quel("dead", "drop", "--all", "--yes", "--json")).ok().data == {"dropped": [oldest.name]}
    assert queue.letters() == []


async def test_names_that_mean_nothing_or_too_much(quel: Quel, queue: JobQueue) -> None:
    queue.dead_letter_job(uuid4(), "one")
    (letter,) = queue.letters()
    assert "zzzz" in (await quel("dead", "show", "zzzz")).wrong().err
    assert letter.name[:2] in (await quel("dead", "drop", "--yes", letter.name[:2])).wrong().err, "too short to mean it"
    assert len(queue.letters()) == 1
    assert "--all" in (await quel("dead", "requeue")).wrong(2).err
    assert "--all" in (await quel("dead", "drop", "--all", letter.name)).wrong(2).err
