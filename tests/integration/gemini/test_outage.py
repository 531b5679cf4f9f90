"""Gemini that is overloaded: every picture waits, one asks at a time, and all are made when it is back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis

from quel_dagster.adapters.gemini.client import GeminiClient
from quel_dagster.adapters.gemini_outage import PICTURES, PROBE, UNAVAILABLE, GeminiOutage
from quel_dagster.adapters.intake import NEXT_PROBE, Pauser, admits_a_probe, intake_paused, pause_intake
from quel_dagster.errors import GeminiRefusedError, GeminiTimeoutError, GeminiUnavailableError
from quel_dagster.sandbox.gemini_server import GeminiStandIn
from quel_dagster.sandbox.gemini_state import Behaviour, Rule
from tests.integration.conftest import eventually
from tests.integration.gemini.conftest import client_for, observing, reference, size_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

HANG_GUARD = 60


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def worker(server: GeminiStandIn, redis_url: str) -> Callable[..., GeminiClient]:
    """A client as each worker process has one."""

    def make(*, hours: float = 1.0, url: str = redis_url, **changes: Any) -> GeminiClient:
        outage = GeminiOutage(url, hours=hours, first_pause_seconds=0.05)
        return client_for(server.url, outage=outage, attempts=2, **changes)

    return make


async def picture(client: GeminiClient, text: str = "x", **more: Any) -> Any:
    return await client.generate(text=text, parts=[reference()], aspect_ratio="4:3", accept=size_of, **more)


async def test_overloaded_for_all_pictures_of_two_workers_wait_and_are_made(
    server: GeminiStandIn, redis_client: redis.Redis, worker: Callable[..., GeminiClient]
) -> None:
    """Before, seven jobs failed in 84 s."""
    server.state.add_rules(Rule(behaviour=Behaviour.UNAVAILABLE))
    workers = [worker(), worker()]
    said: list[str] = []
    pictures = [
        asyncio.create_task(picture(workers[number % 2], observer=observing(waiting=said.append)))
        for number in range(7)
    ]

    pause = await eventually(lambda: paused(redis_client))
    assert pause.pauser is Pauser.GEMINI
    assert "The model is overloaded" in pause.reason

    # From then on one call at a time, but for the attempts that were under way: two a picture at most.
    server.state.latency = 0.2
    begun = len(server.state.requests)
    await asyncio.to_thread(server.state.wait_until, lambda state: len(state.requests) >= begun + 10, HANG_GUARD)
    assert all(not task.done() for task in pictures)
    assert [request.in_flight for request in server.state.requests[begun + 7 : begun + 10]] == [1] * 3

    server.state.reset()
    async with asyncio.timeout(HANG_GUARD):
        made = await asyncio.gather(*pictures)
    assert made == [(1152, 896)] * 7
    assert any("no new job is begun" in line for line in said)

    async def gone() -> bool:
        return intake_paused(redis_client) is None and not redis_client.exists(UNAVAILABLE, PROBE)

    await eventually(gone)
    for client in workers:
        await client.aclose()


async def test_pause_by_an_operator_outlives_the_outage(
    server: GeminiStandIn, redis_client: redis.Redis, worker: Callable[..., GeminiClient]
) -> None:
    pause_intake(redis_client, "upgrade", by="ana")
    server.state.add_rules(Rule(behaviour=Behaviour.UNAVAILABLE, times=9))
    client = worker()
    async with asyncio.timeout(HANG_GUARD):
        await picture(client)
    await client.aclose()
    pause = intake_paused(redis_client)
    assert pause is not None
    assert pause.pauser is Pauser.OPERATOR


async def test_outage_that_is_too_old_fails_the_picture(
    server: GeminiStandIn, worker: Callable[..., GeminiClient]
) -> None:
    server.state.add_rules(Rule(behaviour=Behaviour.UNAVAILABLE))
    client = worker(hours=0.5 / 3600)
    async with asyncio.timeout(HANG_GUARD):
        with pytest.raises(GeminiUnavailableError, match="longer than GEMINI_OUTAGE_HOURS"):
            await picture(client)
    await client.aclose()


async def test_no_hours_the_picture_fails_after_its_attempts(
    server: GeminiStandIn, redis_client: redis.Redis, worker: Callable[..., GeminiClient]
) -> None:
    server.state.add_rules(Rule(behaviour=Behaviour.UNAVAILABLE))
    client = worker(hours=0)
    for _ in range(PICTURES):
        with pytest.raises(GeminiUnavailableError, match="tried 2 times"):
            await picture(client)
    assert intake_paused(redis_client) is None
    await client.aclose()


async def test_picture_that_stays_unavailable_while_others_are_made_fails_alone(
    server: GeminiStandIn, redis_client: redis.Redis, worker: Callable[..., GeminiClient]
) -> None:
    """Otherwise one picture would stop the whole installation until GEMINI_OUTAGE_HOURS are over."""
    server.state.add_rules(Rule(behaviour=Behaviour.UNAVAILABLE, match="poison"))
    client, other = worker(), worker()
    poison = asyncio.create_task(picture(client, text="poison"))
    async with asyncio.timeout(HANG_GUARD):
        while not poison.done():
            await picture(client, text="good")
        with pytest.raises(GeminiUnavailableError, match="tried"):
            await poison

        # a worker that met no trouble ends an outage that others declared
        pause_intake(redis_client, "overloaded", by="another worker", pauser=Pauser.GEMINI)
        await picture(other, text="good")

        async def gone() -> bool:
            return intake_paused(redis_client) is None

        await eventually(gone)
    await client.aclose()
    await other.aclose()


@pytest.mark.parametrize("behaviour", [Behaviour.SERVER_ERROR, Behaviour.RESET, Behaviour.CUT, Behaviour.SAFETY_BLOCK])
async def test_fault_of_one_request_begins_no_outage(
    behaviour: Behaviour, server: GeminiStandIn, redis_client: redis.Redis, worker: Callable[..., GeminiClient]
) -> None:
    """An internal error may be about one picture, which would then stop the whole installation."""
    server.state.add_rules(Rule(behaviour=behaviour))
    client = worker()
    for _ in range(PICTURES + 1):
        with pytest.raises((GeminiUnavailableError, GeminiRefusedError)):
            await picture(client)
    assert intake_paused(redis_client) is None
    await client.aclose()


async def test_refusal_in_an_outage_is_an_answer_and_ends_it(
    server: GeminiStandIn, redis_client: redis.Redis, worker: Callable[..., GeminiClient]
) -> None:
    server.state.add_rules(Rule(behaviour=Behaviour.UNAVAILABLE))
    client = worker()
    pictures = [asyncio.create_task(picture(client)) for _ in range(PICTURES)]
    await eventually(lambda: paused(redis_client))
    server.state.reset()
    server.state.add_rules(Rule(behaviour=Behaviour.SAFETY_BLOCK))
    async with asyncio.timeout(HANG_GUARD):
        refused = await asyncio.gather(*pictures, return_exceptions=True)
    assert {type(error) for error in refused} == {GeminiRefusedError}

    async def gone() -> bool:
        return intake_paused(redis_client) is None

    await eventually(gone)
    await client.aclose()


async def test_one_picture_that_is_always_unavailable_pauses_no_intake(
    server: GeminiStandIn, redis_client: redis.Redis, worker: Callable[..., GeminiClient]
) -> None:
    """Before, its own third failure paused the intake until GEMINI_OUTAGE_HOURS were over."""
    server.state.add_rules(Rule(behaviour=Behaviour.UNAVAILABLE, match="poison"))
    client = worker()
    said: list[str] = []
    poison = asyncio.create_task(picture(client, text="poison", observer=observing(waiting=said.append)))
    rounds = PICTURES + 1
    await asyncio.to_thread(server.state.wait_until, lambda state: len(state.requests) > 2 * rounds, HANG_GUARD)
    assert intake_paused(redis_client) is None
    assert not poison.done(), "alone, it may be an outage: the job waits"
    assert len(said) == 1
    assert said[0].startswith("Waiting for Gemini: ")
    poison.cancel()
    await client.aclose()


async def test_new_job_that_is_served_opens_the_intake_that_three_bad_pictures_paused(
    server: GeminiStandIn, redis_client: redis.Redis, worker: Callable[..., GeminiClient]
) -> None:
    """Before, pictures that Gemini never makes kept the intake paused until GEMINI_OUTAGE_HOURS were over."""
    server.state.add_rules(Rule(behaviour=Behaviour.UNAVAILABLE, match="poison"))
    client, other = worker(), worker()
    bad = [asyncio.create_task(picture(client, text="poison")) for _ in range(PICTURES)]
    await eventually(lambda: paused(redis_client))
    assert not admits_a_probe(redis_client), "the pause has just begun"
    redis_client.delete(NEXT_PROBE)  # PROBE_JOB_SECONDS are over
    assert [admits_a_probe(redis_client) for _ in range(3)] == [True, False, False]

    for task in bad:  # their next calls would pause it again: hold them back to see the opening
        task.cancel()
    await picture(other, text="good")

    async def gone() -> bool:
        return intake_paused(redis_client) is None and not redis_client.exists(UNAVAILABLE, PROBE, NEXT_PROBE)

    await eventually(gone)
    await client.aclose()
    await other.aclose()


async def paused(redis_client: redis.Redis) -> Any:
    return intake_paused(redis_client)


async def test_hang_without_an_outage_fails_the_picture(
    server: GeminiStandIn, worker: Callable[..., GeminiClient]
) -> None:
    server.state.add_rules(Rule(behaviour=Behaviour.HANG))
    client = worker(timeout_seconds=1.0)
    with pytest.raises(GeminiTimeoutError):
        await picture(client)
    await client.aclose()


async def test_stop_ends_the_wait(server: GeminiStandIn, worker: Callable[..., GeminiClient]) -> None:
    class StoppedError(Exception):
        pass

    stopped = asyncio.Event()
    waiting = asyncio.Event()

    @asynccontextmanager
    async def turn() -> AsyncIterator[None]:
        if stopped.is_set():
            raise StoppedError
        yield

    server.state.add_rules(Rule(behaviour=Behaviour.UNAVAILABLE))
    client = worker()
    task = asyncio.create_task(picture(client, turn=turn, observer=observing(waiting=lambda _why: waiting.set())))
    async with asyncio.timeout(HANG_GUARD):
        await waiting.wait()
        stopped.set()
        with pytest.raises(StoppedError):
            await task
    await client.aclose()


async def test_without_redis_the_picture_waits_for_itself(
    server: GeminiStandIn, worker: Callable[..., GeminiClient]
) -> None:
    server.state.add_rules(Rule(behaviour=Behaviour.UNAVAILABLE, times=5))
    client = worker(url="redis://127.0.0.1:1/0")
    async with asyncio.timeout(HANG_GUARD):
        await picture(client)
    assert len(server.state.requests) == 6
    await client.aclose()


async def test_waiting_pictures_that_are_killed_leave_a_pause_that_lapses(
    server: GeminiStandIn, redis_client: redis.Redis, worker: Callable[..., GeminiClient]
) -> None:
    server.state.add_rules(Rule(behaviour=Behaviour.UNAVAILABLE))
    client = worker()
    tasks = [asyncio.create_task(picture(client)) for _ in range(PICTURES)]
    await eventually(lambda: paused(redis_client))
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert intake_paused(redis_client) is not None
    assert 0 < redis_client.pttl("quel:intake:gemini") <= 120_000
    await client.aclose()
