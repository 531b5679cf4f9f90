"""The queue on a real Redis: an id leaves one list only into another, and waits there until a run exists."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest
import redis

from quel_dagster.adapters import queue as queue_module
from quel_dagster.adapters.cancel_flags import CANCEL_POLL_SECONDS, CancelFlags
from quel_dagster.adapters.database.records import CancelledBy
from quel_dagster.adapters.queue import AGAIN, DEAD, DELIVERIES, MISSES, PROCESSING, QUEUE, JobQueue
from quel_dagster.adapters.queue_snapshot import take_snapshot
from quel_dagster.adapters.redis_connection import unreachable
from quel_dagster.errors import SettingsError
from tests.integration.conftest import claim

MEGABYTES_10 = b"x" * 10_000_000
HANG_SECONDS = 60.0


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def ids(count: int) -> list[UUID]:
    return [uuid4() for _ in range(count)]


def test_the_oldest_id_comes_first(queue: JobQueue) -> None:
    pushed = ids(5)
    for job_id in pushed[:3]:
        queue.push(job_id)
    queue.push(*pushed[3:])

    assert claim(queue, 10) == 5
    assert [delivery.job_id for delivery in queue.deliveries()] == pushed


def test_ids_pushed_as_the_web_app_does(queue: JobQueue, client: redis.Redis) -> None:
    (job_id,) = ids(1)
    queue.push(job_id)
    assert client.lrange(QUEUE, 0, -1) == [str(job_id).encode()]


def test_no_more_than_the_limit_is_claimed_and_the_rest_stays_in_order(queue: JobQueue) -> None:
    pushed = ids(120)
    queue.push(*pushed)

    assert claim(queue, 7) == 7
    assert queue.depths() == {"again": 0, "queue": 113, "processing": 7, "dead": 0}
    assert claim(queue, 60) == 60
    assert claim(queue, 1000) == 53
    assert [delivery.job_id for delivery in queue.deliveries()] == pushed


def test_an_empty_queue_is_looked_at_once_or_for_a_while(queue: JobQueue) -> None:
    assert not queue.wait(0)
    assert not queue.wait(0.05)
    assert claim(queue) == 0
    assert queue.deliveries() == []


def test_wait_that_blocks_ends_with_the_first_id_and_lingers_for_its_burst(
    queue: JobQueue, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "LINGER_SECONDS", 1.0)
    pushed = ids(8)

    def push_a_burst() -> None:
        while not any(each["cmd"] == "blmove" for each in client.client_list()):
            pass
        for job_id in pushed:
            client.lpush(QUEUE, str(job_id))

    thread = threading.Thread(target=push_a_burst)
    thread.start()
    assert queue.wait(60)
    assert queue.peek(50) == [str(job_id).encode() for job_id in pushed], "a wait takes nothing and keeps the order"
    thread.join()


def test_wait_ends_with_an_id_that_is_pushed_again(queue: JobQueue, client: redis.Redis) -> None:
    (job_id,) = ids(1)

    def push_again() -> None:
        while not any(each["cmd"] == "blmove" for each in client.client_list()):
            pass
        client.lpush(AGAIN, str(job_id))

    thread = threading.Thread(target=push_again)
    thread.start()
    assert queue.wait(60)
    thread.join()
    assert queue.depths() == {"again": 1, "queue": 0, "processing": 0, "dead": 0}


def test_wait_goes_past_ids_that_are_left_alone(queue: JobQueue, client: redis.Redis) -> None:
    foreign, ours = ids(2)
    queue.push(foreign, foreign)
    left_alone = {str(foreign).encode()}
    assert not queue.wait(0.1, left_alone=left_alone)
    queue.push(ours)
    assert queue.wait(60, left_alone=left_alone)
    assert queue.peek(9) == [str(job_id).encode() for job_id in (foreign, foreign, ours)]


def test_wait_lets_the_older_worker_take_what_it_waits_for(redis_url: str, queue: JobQueue) -> None:
    """Both block on the same list; this project's look leaves the id where it is."""
    (job_id,) = ids(1)
    with redis.Redis.from_url(redis_url) as look, ThreadPoolExecutor(2) as pool:
        ours = pool.submit(queue.wait, 60)
        while not any(each["cmd"] == "blmove" for each in look.client_list()):
            pass
        older = pool.submit(look.brpop, [QUEUE], 30)
        with redis.Redis.from_url(redis_url) as web_app:
            while not any(each["cmd"] == "brpop" for each in web_app.client_list()):
                pass
            web_app.lpush(QUEUE, str(job_id))
            assert older.result() == (QUEUE.encode(), str(job_id).encode())
            web_app.lpush(AGAIN, "x")  # the wait may have seen the id or not; it ends
            ours.result()


def test_what_is_pushed_again_is_not_where_the_older_worker_looks(queue: JobQueue, client: redis.Redis) -> None:
    (job_id,) = ids(1)
    queue.push_again(job_id)
    assert client.lrange(QUEUE, 0, -1) == []
    assert queue.waiting() == {str(job_id).encode()}
    assert (queue.place(job_id).position, queue.place(job_id).waiting) == (1, 1)
    assert claim(queue) == 1


def test_position_counts_ids_pushed_again_first(queue: JobQueue) -> None:
    first, second, again = ids(3)
    queue.push(first, second)
    queue.push_again(again)
    assert [queue.place(job_id).position for job_id in (again, first, second)] == [1, 2, 3]
    assert queue.place(first).waiting == 3


def test_long_entry_is_loaded_once_and_dead_lettered(queue: JobQueue, client: redis.Redis) -> None:
    (job_id,) = ids(1)
    client.lpush(QUEUE, MEGABYTES_10, str(job_id), MEGABYTES_10)
    assert queue.peek(9) == [str(job_id).encode()]
    assert queue.waiting() == {str(job_id).encode()}
    assert take_snapshot(queue).waiting == {job_id}
    before = client.info("stats")["total_net_output_bytes"]

    (described,) = queue.dead_letter_long_entries("not a UUID")

    assert client.info("stats")["total_net_output_bytes"] - before < 1.5 * len(MEGABYTES_10)
    assert described == f"10000000 bytes, sha256 {hashlib.sha256(MEGABYTES_10).hexdigest()[:16]}"
    assert queue.dead_letter_long_entries("not a UUID") == []
    (letter,) = queue.letters()
    assert (letter.reason, letter.length, letter.value) == ("not a UUID", len(MEGABYTES_10), None)
    assert letter.sha256 == hashlib.sha256(MEGABYTES_10).hexdigest()
    assert claim(queue) == 1


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"hello", "hello"),
        (b"\xff\x00", "\\xff\x00"),
        (b"5", "5"),
        (b"[1]", "[1]"),
        (b'{"value": 7}', '{"value": 7}'),
        (b"[" * 100_000, None),
        (b'{"reason": 1e400}', '{"reason": 1e400}'),
    ],
)
def test_a_letter_that_others_wrote_is_shown_as_such(
    queue: JobQueue, client: redis.Redis, raw: bytes, value: str | None
) -> None:
    client.lpush(DEAD, raw)
    (letter,) = queue.letters()
    assert (letter.reason, letter.length, letter.value) == ("not written by Quel", len(raw), value)
    assert take_snapshot(queue).dead == frozenset()
    assert not queue.requeue(letter)
    assert queue.drop(letter)
    assert queue.letters() == []


@pytest.mark.parametrize("at", ["NaN", "-5", "1e300", '"yesterday"'])
def test_a_letter_with_a_time_that_is_none_has_no_time(queue: JobQueue, client: redis.Redis, at: str) -> None:
    client.lpush(DEAD, f'{{"reason": "x", "at": {at}, "value": "\\ud800"}}')
    (letter,) = queue.letters()
    assert (letter.at, letter.job_id) == (0.0, None)


def test_a_job_id_that_others_wrote_as_a_letter_is_of_that_job(queue: JobQueue, client: redis.Redis) -> None:
    (job_id,) = ids(1)
    client.lpush(DEAD, str(job_id))
    (letter,) = queue.letters()
    assert letter.job_id == job_id
    assert take_snapshot(queue).dead == {job_id}
    assert queue.requeue(letter)
    assert queue.depths() == {"again": 1, "queue": 0, "processing": 0, "dead": 0}


def test_a_delivery_keeps_its_number_until_it_is_finished(redis_url: str, queue: JobQueue) -> None:
    (job_id,) = ids(1)
    queue.push(job_id)
    claim(queue, 1)
    (first,) = queue.deliveries()
    assert first.job_id == job_id
    assert first.number
    assert first.run_key == f"{job_id}:{first.number}"

    another_process = JobQueue(redis_url)
    assert another_process.deliveries() == queue.deliveries() == [first]
    another_process.close()

    queue.finish([first])
    assert queue.deliveries() == []
    queue.push(job_id)
    claim(queue, 1)
    (second,) = queue.deliveries()
    assert second.number != first.number


def test_processes_that_look_at_once_agree_on_the_numbers(redis_url: str, queue: JobQueue) -> None:
    queue.push(*ids(20))
    claim(queue, 20)
    seen: list[object] = []

    def look() -> None:
        other = JobQueue(redis_url)
        seen.append(other.deliveries())
        other.close()

    threads = [threading.Thread(target=look) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 6
    assert all(each == seen[0] for each in seen)


def test_the_same_id_ten_times_is_one_delivery_with_ten_copies(queue: JobQueue) -> None:
    job_id, other = ids(2)
    queue.push(*[job_id] * 4, other, *[job_id] * 6)
    claim(queue, 50)

    first, second = queue.deliveries()

    assert (first.job_id, first.copies) == (job_id, 10)
    assert (second.job_id, second.copies) == (other, 1)
    queue.finish([first])
    assert [delivery.job_id for delivery in queue.deliveries()] == [other]


def test_an_id_pushed_again_while_its_first_delivery_is_under_way_joins_it(queue: JobQueue) -> None:
    (job_id,) = ids(1)
    queue.push(job_id)
    claim(queue, 1)
    (first,) = queue.deliveries()
    queue.push(job_id)
    claim(queue, 1)
    (joined,) = queue.deliveries()
    assert (joined.number, joined.copies) == (first.number, 2)


def test_finishing_leaves_nothing_behind(queue: JobQueue, client: redis.Redis) -> None:
    queue.push(*ids(3))
    claim(queue, 5)
    deliveries = queue.deliveries()
    queue.missed(deliveries[0])

    queue.finish(deliveries)
    queue.finish([])

    assert client.keys("*") == []


def test_finishing_what_was_pushed_but_not_claimed_leaves_the_new_one(queue: JobQueue) -> None:
    (job_id,) = ids(1)
    queue.push(job_id)
    claim(queue, 1)
    delivery = queue.deliveries()
    queue.push(job_id)
    queue.finish(delivery)
    assert queue.depths() == {"again": 0, "queue": 1, "processing": 0, "dead": 0}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"not a uuid",
        b"\x00\xff\xfe\x80binary",
        "생성 작업".encode(),
        b" 11111111-1111-1111-1111-111111111111",
        b"11111111-1111-1111-1111-111111111111\n",
        b"{11111111-1111-1111-1111-111111111111}",
        b"11111111111111111111111111111111",
        "１1111111-1111-1111-1111-111111111111".encode(),
    ],
    ids=["empty", "words", "binary", "unicode", "space", "newline", "braces", "hex", "wide digit"],
)
def test_entry_that_is_no_uuid_is_dead_lettered_and_the_next_one_served(
    queue: JobQueue, client: redis.Redis, raw: bytes
) -> None:
    (job_id,) = ids(1)
    client.lpush(QUEUE, raw, str(job_id))
    claim(queue, 10)

    bad, good = queue.deliveries()
    assert bad.raw == raw
    assert bad.job_id is None
    assert bad.number == ""
    assert bad.describe() == f"{len(raw)} bytes, sha256 {hashlib.sha256(raw).hexdigest()[:16]}"
    queue.dead_letter(bad, "not a UUID")

    assert queue.deliveries() == [good]
    assert good.job_id == job_id
    (letter,) = queue.letters()
    assert (letter.reason, letter.length) == ("not a UUID", len(raw))
    assert letter.sha256 == hashlib.sha256(raw).hexdigest()
    assert letter.at > 0
    assert len(client.lrange(DEAD, 0, -1)[0]) < 10_000
    assert letter.value == raw.decode("utf-8", "backslashreplace")


def test_burying_an_id_forgets_its_delivery_and_its_misses(queue: JobQueue, client: redis.Redis) -> None:
    queue.push(*ids(1))
    claim(queue, 1)
    (delivery,) = queue.deliveries()
    assert [queue.missed(delivery) for _ in range(3)] == [1, 2, 3]

    queue.dead_letter(delivery, "no such row")

    assert queue.depths() == {"again": 0, "queue": 0, "processing": 0, "dead": 1}
    assert not client.exists(DELIVERIES, MISSES, PROCESSING)


def test_the_newest_dead_letter_comes_first(queue: JobQueue, client: redis.Redis) -> None:
    client.lpush(QUEUE, "first", "second")
    claim(queue, 2)
    for delivery in queue.deliveries():
        queue.dead_letter(delivery, "not a UUID")
    assert [letter.value for letter in queue.letters()] == ["second", "first"]


def test_the_older_worker_takes_from_the_same_list_and_nothing_is_lost_or_doubled(
    redis_url: str, queue: JobQueue
) -> None:
    pushed = [str(job_id) for job_id in ids(400)]
    taken_by_older: list[str] = []
    begun = threading.Barrier(3)
    older_has_one = threading.Event()

    def older_worker() -> None:  # ends early, so that both get a share in any order
        with redis.Redis.from_url(redis_url) as other:
            begun.wait()
            while len(taken_by_older) < 200 and (popped := other.brpop([QUEUE], timeout=1)) is not None:
                taken_by_older.append(popped[1].decode())
                older_has_one.set()

    def web_app() -> None:
        with redis.Redis.from_url(redis_url) as other:
            begun.wait()
            for job_id in pushed:
                other.lpush(QUEUE, job_id)

    threads = [threading.Thread(target=older_worker), threading.Thread(target=web_app)]
    for thread in threads:
        thread.start()
    ours: list[str] = []
    begun.wait()
    assert older_has_one.wait(60)
    while len(ours) + len(taken_by_older) < len(pushed):
        queue.wait(0.05)
        claim(queue, 3)
        deliveries = queue.deliveries()
        ours += [str(delivery.job_id) for delivery in deliveries]
        queue.finish(deliveries)
        if not any(thread.is_alive() for thread in threads) and not queue.depths()["queue"]:
            break
    for thread in threads:
        thread.join()

    assert sorted(ours + taken_by_older) == sorted(pushed)
    assert ours
    assert taken_by_older


# --- the user's cancel -------------------------------------------------------------------------------


async def test_the_cancel_flag_as_the_web_app_sets_it(redis_url: str, client: redis.Redis) -> None:
    flags = CancelFlags(redis_url)
    job_id, other = ids(2)
    assert not await flags.cancelled_by(job_id)

    client.set(f"job:{job_id}:cancelled", "true", ex=3600)
    assert await flags.cancelled_by(job_id) == "user"
    assert not await flags.cancelled_by(other)
    client.set(f"job:{job_id}:cancelled", "false")
    assert not await flags.cancelled_by(job_id)

    await flags.aclose()


async def test_all_jobs_are_watched_with_one_command_a_poll(redis_url: str, client: redis.Redis) -> None:
    flags = CancelFlags(redis_url)
    jobs = ids(50)

    def reads() -> int:
        return int(client.info("commandstats").get("cmdstat_mget", {"calls": 0})["calls"])

    before, began = reads(), time.monotonic()
    watching = [asyncio.ensure_future(flags.seen(job_id)) for job_id in [*jobs, jobs[7]]]
    await asyncio.sleep(0)
    watching[3].cancel()  # a job that ends while the others are watched
    client.set(f"job:{jobs[7]}:cancelled", "true")
    client.set(f"quel_dagster:cancel:{jobs[8]}", "true")
    client.set(f"job:{jobs[9]}:cancelled", "false")
    await asyncio.wait_for(asyncio.gather(watching[7], watching[8], watching[50]), HANG_SECONDS)
    polls = (time.monotonic() - began) / CANCEL_POLL_SECONDS

    assert [index for index, each in enumerate(watching) if each.done()] == [3, 7, 8, 50]
    assert 1 <= reads() - before <= polls + 1
    await asyncio.wait_for(flags.seen(jobs[7]), HANG_SECONDS)  # a flag that stays set is seen again
    await flags.aclose()
    for each in watching:
        each.cancel()


async def test_a_flag_is_seen_once_redis_answers_again(redis_url: str, client: redis.Redis) -> None:
    flags = CancelFlags(redis_url)
    (job_id,) = ids(1)
    client.set(f"job:{job_id}:cancelled", "true")
    read, refused = flags._read, asyncio.Event()

    async def refuse(job_ids: Sequence[UUID]) -> Mapping[UUID, CancelledBy]:
        flags._read = read  # type: ignore[method-assign]
        refused.set()
        raise redis.ConnectionError("down")

    flags._read = refuse  # type: ignore[method-assign]
    await asyncio.wait_for(flags.seen(job_id), HANG_SECONDS)
    assert refused.is_set()
    await flags.aclose()


# --- an unreachable Redis, an invalid URL ------------------------------------------------------------


@pytest.mark.parametrize("url", ["", "http://:geheim@h", "redis://h:geheim/0", "localhost:6379"])
def test_a_url_that_is_none_is_refused_without_what_it_holds(url: str) -> None:
    for kind in (JobQueue, CancelFlags):
        with pytest.raises(SettingsError, match="REDIS_URL is not a Redis URL") as caught:
            kind(url)
        assert "geheim" not in str(caught.value)


def test_unreachable_redis_is_one_line_without_the_address() -> None:
    queue = JobQueue("redis://:geheim@127.0.0.1:1/0")
    with pytest.raises(redis.ConnectionError) as caught:
        queue.wait(1)
    line = str(unreachable(caught.value))
    assert line == "Redis does not answer (ConnectionError); check REDIS_URL and that the server runs."
    queue.close()


def test_certificates_of_a_rediss_url_are_verified() -> None:
    queue = JobQueue("rediss://h:6379/0")
    made = queue._redis.connection_pool.make_connection()
    assert made.cert_reqs == 2  # ssl.CERT_REQUIRED
    assert made.check_hostname
    queue.close()


# --- chosen ids ----------------------------------------------------------------------------------------


def test_a_look_at_the_queue_takes_nothing(queue: JobQueue) -> None:
    pushed = ids(5)
    queue.push(*pushed)
    assert queue.peek(3) == [str(job_id).encode() for job_id in pushed[:3]]
    assert queue.peek(100) == [str(job_id).encode() for job_id in pushed]
    assert queue.depths() == {"again": 0, "queue": 5, "processing": 0, "dead": 0}


def test_chosen_ids_are_claimed_in_the_order_of_the_choice_and_the_rest_keeps_its_own(queue: JobQueue) -> None:
    pushed = ids(6)
    queue.push(*pushed)
    choice = [pushed[4], pushed[0], pushed[2]]
    assert queue.take([str(job_id).encode() for job_id in choice]) == 3
    assert [delivery.job_id for delivery in queue.deliveries()] == choice
    assert queue.peek(100) == [str(pushed[place]).encode() for place in (1, 3, 5)]


def test_all_copies_of_a_chosen_id_are_claimed_together(queue: JobQueue) -> None:
    first, second = ids(2)
    queue.push(first, second, first, second, first)
    assert queue.take([str(first).encode()]) == 3
    (delivery,) = queue.deliveries()
    assert (delivery.job_id, delivery.copies) == (first, 3)
    assert queue.depths()["queue"] == 2


def test_what_another_consumer_took_meanwhile_is_not_claimed(queue: JobQueue, client: redis.Redis) -> None:
    first, second = ids(2)
    queue.push(first, second)
    choice = queue.peek(10)
    assert client.brpop([QUEUE]) == (QUEUE.encode(), str(first).encode())
    assert queue.take(choice) == 1
    assert [delivery.job_id for delivery in queue.deliveries()] == [second]
    assert queue.take([]) == 0
