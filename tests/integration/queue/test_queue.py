"""The queue on a real Redis: an id leaves one list only into another, and waits there until a run exists."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
import redis

from quel_dagster.adapters import queue as queue_module
from quel_dagster.adapters.queue import DEAD, DELIVERIES, MISSES, PROCESSING, QUEUE, CancelFlags, JobQueue, unreachable
from quel_dagster.errors import SettingsError

MEGABYTES_10 = b"x" * 10_000_000


@pytest.fixture
def queue(redis_url: str) -> Iterator[JobQueue]:
    queue = JobQueue(redis_url)
    yield queue
    queue.close()


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

    assert queue.claim(wait_seconds=0, limit=10) == 5
    assert [delivery.job_id for delivery in queue.deliveries()] == pushed


def test_ids_pushed_as_the_web_app_does(queue: JobQueue, client: redis.Redis) -> None:
    (job_id,) = ids(1)
    queue.push(job_id)
    assert client.lrange(QUEUE, 0, -1) == [str(job_id).encode()]


def test_no_more_than_the_limit_is_claimed_and_the_rest_stays_in_order(queue: JobQueue) -> None:
    pushed = ids(120)
    queue.push(*pushed)

    assert queue.claim(wait_seconds=0, limit=7) == 7
    assert queue.depths() == {"queue": 113, "processing": 7, "dead": 0}
    assert queue.claim(wait_seconds=5, limit=60) == 60
    assert queue.claim(wait_seconds=0, limit=1000) == 53
    assert [delivery.job_id for delivery in queue.deliveries()] == pushed


def test_an_empty_queue_is_looked_at_once_or_for_a_while(queue: JobQueue) -> None:
    assert queue.claim(wait_seconds=0, limit=5) == 0
    assert queue.claim(wait_seconds=0.05, limit=5) == 0
    assert queue.deliveries() == []


def test_a_claim_that_blocks_ends_with_the_first_id_and_lingers_for_its_burst(
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
    assert queue.claim(wait_seconds=60, limit=50) == 8
    thread.join()
    assert [delivery.job_id for delivery in queue.deliveries()] == pushed


def test_a_delivery_keeps_its_number_until_it_is_finished(redis_url: str, queue: JobQueue) -> None:
    (job_id,) = ids(1)
    queue.push(job_id)
    queue.claim(wait_seconds=0, limit=1)
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
    queue.claim(wait_seconds=0, limit=1)
    (second,) = queue.deliveries()
    assert second.number != first.number


def test_processes_that_look_at_once_agree_on_the_numbers(redis_url: str, queue: JobQueue) -> None:
    queue.push(*ids(20))
    queue.claim(wait_seconds=0, limit=20)
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
    queue.claim(wait_seconds=0, limit=50)

    first, second = queue.deliveries()

    assert (first.job_id, first.copies) == (job_id, 10)
    assert (second.job_id, second.copies) == (other, 1)
    queue.finish([first])
    assert [delivery.job_id for delivery in queue.deliveries()] == [other]


def test_an_id_pushed_again_while_its_first_delivery_is_under_way_joins_it(queue: JobQueue) -> None:
    (job_id,) = ids(1)
    queue.push(job_id)
    queue.claim(wait_seconds=0, limit=1)
    (first,) = queue.deliveries()
    queue.push(job_id)
    queue.claim(wait_seconds=0, limit=1)
    (joined,) = queue.deliveries()
    assert (joined.number, joined.copies) == (first.number, 2)


def test_finishing_leaves_nothing_behind(queue: JobQueue, client: redis.Redis) -> None:
    queue.push(*ids(3))
    queue.claim(wait_seconds=0, limit=5)
    deliveries = queue.deliveries()
    queue.missed(deliveries[0])

    queue.finish(deliveries)
    queue.finish([])

    assert client.keys("*") == []


def test_finishing_what_was_pushed_but_not_claimed_leaves_the_new_one(queue: JobQueue) -> None:
    (job_id,) = ids(1)
    queue.push(job_id)
    queue.claim(wait_seconds=0, limit=1)
    delivery = queue.deliveries()
    queue.push(job_id)
    queue.finish(delivery)
    assert queue.depths() == {"queue": 1, "processing": 0, "dead": 0}


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
        MEGABYTES_10,
    ],
    ids=["empty", "words", "binary", "unicode", "space", "newline", "braces", "hex", "wide digit", "10 MB"],
)
def test_an_entry_that_is_no_uuid_can_be_buried_and_the_next_one_is_served(
    queue: JobQueue, client: redis.Redis, raw: bytes
) -> None:
    (job_id,) = ids(1)
    client.lpush(QUEUE, raw, str(job_id))
    queue.claim(wait_seconds=0, limit=10)

    bad, good = queue.deliveries()
    assert bad.raw == raw
    assert bad.job_id is None
    assert bad.number == ""
    assert bad.describe() == f"{len(raw)} bytes, sha256 {hashlib.sha256(raw).hexdigest()[:16]}"
    queue.bury(bad, "not a UUID")

    assert queue.deliveries() == [good]
    assert good.job_id == job_id
    (letter,) = queue.dead()
    assert (letter["reason"], letter["length"]) == ("not a UUID", len(raw))
    assert letter["sha256"] == hashlib.sha256(raw).hexdigest()
    assert letter["at"] > 0
    assert len(client.lrange(DEAD, 0, -1)[0]) < 10_000
    assert letter["value"] == (None if raw is MEGABYTES_10 else raw.decode("utf-8", "backslashreplace"))


def test_burying_an_id_forgets_its_delivery_and_its_misses(queue: JobQueue, client: redis.Redis) -> None:
    queue.push(*ids(1))
    queue.claim(wait_seconds=0, limit=1)
    (delivery,) = queue.deliveries()
    assert [queue.missed(delivery) for _ in range(3)] == [1, 2, 3]

    queue.bury(delivery, "no such row")

    assert queue.depths() == {"queue": 0, "processing": 0, "dead": 1}
    assert not client.exists(DELIVERIES, MISSES, PROCESSING)


def test_the_newest_dead_letter_comes_first(queue: JobQueue, client: redis.Redis) -> None:
    client.lpush(QUEUE, "first", "second")
    queue.claim(wait_seconds=0, limit=2)
    for delivery in queue.deliveries():
        queue.bury(delivery, "not a UUID")
    assert [letter["value"] for letter in queue.dead()] == ["second", "first"]


def test_the_older_worker_takes_from_the_same_list_and_nothing_is_lost_or_doubled(
    redis_url: str, queue: JobQueue
) -> None:
    pushed = [str(job_id) for job_id in ids(400)]
    taken_by_older: list[str] = []
    begun = threading.Barrier(3)

    def older_worker() -> None:
        with redis.Redis.from_url(redis_url) as other:
            begun.wait()
            while (popped := other.brpop([QUEUE], timeout=1)) is not None:
                taken_by_older.append(popped[1].decode())

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
    while len(ours) + len(taken_by_older) < len(pushed):
        queue.claim(wait_seconds=0.05, limit=3)
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
    assert not await flags.is_set(job_id)

    client.set(f"job:{job_id}:cancelled", "true", ex=3600)
    assert await flags.is_set(job_id)
    assert not await flags.is_set(other)
    client.set(f"job:{job_id}:cancelled", "false")
    assert not await flags.is_set(job_id)

    await flags.aclose()


# --- a Redis that is away, a URL that is none --------------------------------------------------------


@pytest.mark.parametrize("url", ["", "http://:geheim@h", "redis://h:geheim/0", "localhost:6379"])
def test_a_url_that_is_none_is_refused_without_what_it_holds(url: str) -> None:
    for kind in (JobQueue, CancelFlags):
        with pytest.raises(SettingsError, match="REDIS_URL is not a Redis URL") as caught:
            kind(url)
        assert "geheim" not in str(caught.value)


def test_a_redis_that_is_away_is_one_line_without_the_address() -> None:
    queue = JobQueue("redis://:geheim@127.0.0.1:1/0")
    with pytest.raises(redis.ConnectionError) as caught:
        queue.claim(wait_seconds=1, limit=1)
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
    assert queue.depths() == {"queue": 5, "processing": 0, "dead": 0}


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
