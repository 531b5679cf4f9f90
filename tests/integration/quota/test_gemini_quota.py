"""The shared limits of Gemini on a real Redis: Q1 to Q7 of adapters/gemini_quota.py."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from quel_dagster.adapters import gemini_quota
from quel_dagster.adapters.gemini_quota import GeminiQuota
from quel_dagster.adapters.gemini_quota_scripts import CALLS, FLIGHT, KEYS, LINE, PAUSE, SEEN, WIDTH
from quel_dagster.errors import GeminiRateLimitedError, GeminiRefusedError
from tests.faults.proxy import TcpProxy
from tests.integration.conftest import eventually

Open = Callable[..., GeminiQuota]


@pytest.fixture
async def open_quota(redis_url: str) -> AsyncIterator[Open]:
    """Makes quotas, each as one worker process would have it."""
    made: list[GeminiQuota] = []

    def open_one(url: str = redis_url, **limits: object) -> GeminiQuota:
        made.append(GeminiQuota(url, **limits))  # type: ignore[arg-type]
        return made[-1]

    yield open_one
    for quota in made:
        await quota.aclose()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@asynccontextmanager
async def waiting(quota: GeminiQuota, order: list[str], name: str = "") -> AsyncIterator[asyncio.Task[None]]:
    """A call that stands in line."""
    reported = asyncio.Event()

    async def call() -> None:
        async with quota.place(lambda _why: reported.set()):
            order.append(name)

    task = asyncio.create_task(call())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def in_line(client: redis.Redis, count: int) -> None:
    async def look() -> bool:
        return client.zcard(LINE) == count

    await eventually(look)


async def in_flight(client: redis.Redis, count: int) -> None:
    async def look() -> bool:
        return client.zcard(FLIGHT) == count

    await eventually(look)


async def test_without_limits_no_call_waits_and_no_key_is_left(open_quota: Open, client: redis.Redis) -> None:
    quota = open_quota()
    async with AsyncExitStack() as calls:
        for _ in range(50):
            await calls.enter_async_context(quota.place())
    await in_flight(client, 0)
    assert client.keys("quel:gemini:*") == []


async def test_no_more_calls_begin_in_a_window_than_the_limit_over_two_processes(open_quota: Open) -> None:
    """Q1, on the clock that the calls themselves see; the margin is what their ways may differ."""
    window, limit = 1.0, 5
    quotas = [open_quota(requests=limit, window_seconds=window, margin_seconds=0.3) for _ in range(2)]
    begun: list[float] = []

    async def call(quota: GeminiQuota) -> None:
        async with quota.place():
            begun.append(time.monotonic())

    await asyncio.gather(*(call(quotas[number % 2]) for number in range(4 * limit)))
    begun.sort()
    for first, later in zip(begun, begun[limit:], strict=False):
        assert later - first > window, "more calls than the limit within one window"


async def test_no_more_calls_are_in_flight_than_the_limit_over_two_processes(open_quota: Open) -> None:
    quotas = [open_quota(max_in_flight=3) for _ in range(2)]
    now = most = 0

    async def call(quota: GeminiQuota) -> None:
        nonlocal now, most
        async with quota.place():
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.05)
            now -= 1

    await asyncio.gather(*(call(quotas[number % 2]) for number in range(20)))
    assert most == 3


async def test_a_process_that_dies_gives_its_places_back(
    open_quota: Open, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Q2: they are no longer renewed."""
    monkeypatch.setattr(gemini_quota, "PLACE_SECONDS", 1.0)
    dead, alive = open_quota(max_in_flight=1), open_quota(max_in_flight=1)
    holding = dead.place()
    await holding.__aenter__()
    assert dead._renewer is not None
    dead._renewer.cancel()  # as SIGKILL would end it
    async with asyncio.timeout(20), alive.place():
        assert client.zcard(FLIGHT) == 1
    await holding.__aexit__(None, None, None)


async def test_a_place_that_is_held_is_renewed(open_quota: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemini_quota, "PLACE_SECONDS", 2.0)
    quota = open_quota(max_in_flight=1)
    order: list[str] = []
    async with quota.place(), waiting(open_quota(max_in_flight=1), order) as second:
        await asyncio.wait({second}, timeout=5.0)
        assert order == [], "a place lapsed under its holder"


async def test_who_asked_first_is_served_first(open_quota: Open, client: redis.Redis) -> None:
    """Q3, over processes."""
    quotas = [open_quota(max_in_flight=1) for _ in range(2)]
    order: list[str] = []
    async with AsyncExitStack() as line:
        async with quotas[0].place():
            for number in range(6):
                await line.enter_async_context(waiting(quotas[number % 2], order, str(number)))
                await in_line(client, number + 1)

        async def all_served() -> bool:
            return len(order) == 6

        await eventually(all_served)
    assert order == ["0", "1", "2", "3", "4", "5"]


async def test_who_is_cancelled_leaves_the_line_at_once(open_quota: Open, client: redis.Redis) -> None:
    """Q3, Q6: the next one in line does not wait for the one that left."""
    quota, order = open_quota(max_in_flight=1), list[str]()
    async with quota.place(), waiting(quota, order, "first") as first:
        await in_line(client, 1)
        async with waiting(quota, order, "second"):
            await in_line(client, 2)
            first.cancel()
            await asyncio.wait({first}, timeout=0.5)
            assert first.cancelled()
            await in_line(client, 1)


async def test_dead_process_in_line_delays_no_other_call(
    open_quota: Open, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, _ = client.time()  # type: ignore[misc]
    client.zadd(LINE, {"dead": (now - 60) * 1000})
    client.zadd(SEEN, {"dead": (now + 1) * 1000})
    async with asyncio.timeout(20), open_quota(max_in_flight=1).place():
        assert client.zcard(LINE) == 0


async def rejected(quota: GeminiQuota, retry_after: float | None) -> None:
    with pytest.raises(GeminiRateLimitedError):
        async with quota.place():
            raise GeminiRateLimitedError(retry_after=retry_after)


async def test_a_429_makes_everybody_wait_until_the_moment_that_gemini_named(
    open_quota: Open, client: redis.Redis
) -> None:
    """Q4, without any limit set."""
    one, other = open_quota(), open_quota()
    await rejected(one, 1.5)

    async def paused() -> bool:
        return bool(client.exists(PAUSE))

    await eventually(paused)
    left = client.pttl(PAUSE) / 1000  # type: ignore[operator]
    assert left <= 1.5
    started, reported = time.monotonic(), list[str]()
    async with other.place(reported.append):
        waited = time.monotonic() - started
    assert waited >= left - 0.1
    assert reported == [] or "asked for a pause" in reported[0]


async def test_a_shorter_pause_does_not_cut_a_longer_one(open_quota: Open, client: redis.Redis) -> None:
    quota = open_quota()
    holding = quota.place()
    await holding.__aenter__()  # in flight since before the pause
    await rejected(open_quota(), 30)

    async def paused() -> bool:
        return bool(client.exists(PAUSE))

    await eventually(paused)
    error = GeminiRateLimitedError(retry_after=1)
    assert not await holding.__aexit__(GeminiRateLimitedError, error, None), "the error is not let through"
    await in_flight(client, 0)
    assert client.pttl(PAUSE) > 20_000


async def test_after_a_pause_few_calls_begin_and_each_success_lets_one_more(
    open_quota: Open, client: redis.Redis
) -> None:
    quota = open_quota()
    await rejected(quota, 0.2)
    order: list[str] = []
    async with quota.place(), waiting(open_quota(), order):
        await in_line(client, 1)
        assert client.zcard(FLIGHT) == 1
    async with asyncio.timeout(20):
        while int(client.get(WIDTH) or 0) < 3:  # type: ignore[arg-type]
            async with quota.place():
                pass


async def test_daily_quota_stops_no_other_call(open_quota: Open, client: redis.Redis) -> None:
    quota = open_quota()
    await rejected(quota, 3600)
    async with asyncio.timeout(60), quota.place():
        assert not client.exists(PAUSE)


async def test_another_failure_causes_no_pause(open_quota: Open, client: redis.Redis) -> None:
    quota = open_quota()
    with pytest.raises(GeminiRefusedError):
        async with quota.place():
            raise GeminiRefusedError
    await in_flight(client, 0)
    assert not client.exists(PAUSE)
    assert not client.exists(WIDTH)


async def test_reason_of_a_wait_is_reported_once(open_quota: Open) -> None:
    quota = open_quota(requests=1, window_seconds=2.0, margin_seconds=0.1)
    reported: list[str] = []
    for _ in range(2):
        async with quota.place(reported.append):
            pass
    assert reported == ["Waiting for Gemini's quota: 1 calls in 2 s are used up"]


async def test_without_redis_calls_go_on_with_one_log_line(open_quota: Open, caplog: pytest.LogCaptureFixture) -> None:
    """Q5."""
    quota = open_quota("redis://user:geheim@127.0.0.1:1/0", requests=1, max_in_flight=1)
    with caplog.at_level(logging.WARNING):
        async with asyncio.timeout(60):
            for _ in range(3):
                async with quota.place():
                    pass
    (line,) = [record.message for record in caplog.records if "Redis" in record.message]
    assert line == "Redis does not answer, so Gemini's limits are not kept until it does; calls go on."
    assert "geheim" not in caplog.text


async def test_without_redis_a_429_still_pauses_its_own_process(open_quota: Open) -> None:
    quota = open_quota("redis://127.0.0.1:1/0")
    await rejected(quota, 1.0)
    started = time.monotonic()
    async with quota.place():
        assert time.monotonic() - started >= 0.9


@asynccontextmanager
async def proxy_of(redis_url: str) -> AsyncIterator[tuple[TcpProxy, str]]:
    port = urlsplit(redis_url).port
    assert port is not None
    with TcpProxy(port) as proxy:
        yield proxy, redis_url.replace(f":{port}", f":{proxy.port}")


async def test_a_cancel_is_seen_at_once_while_redis_says_nothing(
    open_quota: Open, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Q6: redis-py holds on to a cancelled question."""
    monkeypatch.setattr(gemini_quota, "ANSWER_SECONDS", 60.0)
    async with proxy_of(redis_url) as (proxy, url):
        quota = open_quota(url, max_in_flight=1)
        async with quota.place():
            pass
        proxy.hold()
        async with waiting(quota, []) as call:
            await asyncio.sleep(0.3)
            call.cancel()
            started = time.monotonic()
            await asyncio.wait({call}, timeout=30)
            assert call.cancelled()
            assert time.monotonic() - started < 30, "it waited for the answer"
        proxy.heal()
        monkeypatch.setattr(gemini_quota, "ANSWER_SECONDS", 1.0)
        await quota.aclose()


async def known_to_be_free(quota: GeminiQuota) -> None:
    quota.look_ahead()

    async def free() -> bool:
        return quota._is_free()

    await eventually(free)


async def test_where_there_is_no_limit_a_call_waits_for_no_answer(
    open_quota: Open, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Q7"""
    monkeypatch.setattr(gemini_quota, "KNOWN_SECONDS", 60.0)
    async with proxy_of(redis_url) as (proxy, url):
        quota = open_quota(url)
        await known_to_be_free(quota)
        proxy.hold()
        async with asyncio.timeout(gemini_quota.ANSWER_SECONDS / 2), quota.place(), quota.place():
            pass
        proxy.heal()
        await quota.aclose()


async def test_call_begun_without_asking_is_counted_and_releases_its_place(
    open_quota: Open, client: redis.Redis
) -> None:
    quota = open_quota()
    await known_to_be_free(quota)
    async with quota.place():
        await in_flight(client, 1)
    await in_flight(client, 0)


async def test_a_call_that_is_done_before_redis_heard_of_it_keeps_no_place(
    open_quota: Open, client: redis.Redis
) -> None:
    quota = open_quota()
    await known_to_be_free(quota)
    join = quota._join

    async def late(**arguments: Any) -> Any:
        await asyncio.sleep(0.2)
        return await join(**arguments)

    quota._join = late  # type: ignore[assignment]
    async with quota.place():
        pass
    while quota._background:
        await asyncio.wait(set(quota._background))
    assert client.zcard(FLIGHT) == 0


async def test_long_call_keeps_knowing_that_there_is_no_pause(
    open_quota: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gemini_quota, "KNOWN_SECONDS", 1.0)
    quota = open_quota()
    await known_to_be_free(quota)
    async with quota.place():
        until = quota._free_until + 1

        async def known_for_longer() -> bool:
            return quota._free_until > until

        await eventually(known_for_longer, seconds=60)


async def test_a_process_with_calls_under_way_hears_of_a_pause(open_quota: Open, client: redis.Redis) -> None:
    """Q4, where there is no limit."""
    one, other = open_quota(), open_quota()
    await known_to_be_free(other)
    async with other.place():
        await rejected(one, 30)

        async def heard() -> bool:
            return not other._is_free()

        await eventually(heard)
        async with waiting(other, order := []):
            await in_line(client, 1)
            assert order == []


async def test_after_its_own_429_a_process_believes_no_older_answer(open_quota: Open, redis_url: str) -> None:
    """A few begin after a pause, and only Redis can count them."""
    async with proxy_of(redis_url) as (proxy, url):
        quota = open_quota(url)
        await known_to_be_free(quota)
        proxy.slow(delay=0.3)
        older = quota._in_background(quota._look(quota._renew, 1000))
        await asyncio.sleep(0)  # it asks
        await rejected(quota, 0.001)
        assert not quota._is_free()
        await older
        assert not quota._is_free()
        await quota.aclose()


async def test_limits_are_kept_again_once_redis_is_back(
    open_quota: Open, redis_url: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gemini_quota, "UNREACHABLE_SECONDS", 0.2)
    async with proxy_of(redis_url) as (proxy, url):
        quota = open_quota(url, max_in_flight=1)
        proxy.refuse()
        async with quota.place(), quota.place():
            assert client.zcard(FLIGHT) == 0
        proxy.heal()

        async def counted() -> bool:
            async with quota.place():
                return client.zcard(FLIGHT) == 1

        await eventually(counted)
        await quota.aclose()


async def test_every_key_expires(open_quota: Open, client: redis.Redis) -> None:
    """What a kill leaves behind does not stay for ever, and the log of calls is as long as its window."""
    quota = open_quota(requests=10, max_in_flight=5)
    await rejected(quota, 1.0)
    for key in KEYS:
        if client.exists(key):
            assert client.pttl(key) > 0, key
    assert CALLS in {key.decode() for key in client.keys("quel:gemini:*")}  # type: ignore[union-attr]
