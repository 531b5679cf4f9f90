"""Deadlines, dead servers, cancellation, event loops: what the client does with connections."""

from __future__ import annotations

import asyncio
import socket

import pytest

from quel_dagster.errors import GeminiTimeoutError, GeminiUnavailableError
from quel_dagster.sandbox.gemini_server import GeminiStandIn
from quel_dagster.sandbox.gemini_state import Behaviour, LoggedRequest, Rule, StandInState
from tests.integration.gemini.conftest import Ask, client_for, observing, size_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: seconds of a call that ends when the test reduces the latency
LONG = 120.0


def _all_ended(state: StandInState) -> bool:
    return state.in_flight == 0


def _outcomes(requests: list[LoggedRequest]) -> list[str]:
    return [request.outcome for request in requests]


async def test_a_call_that_hangs_ends_at_the_deadline(server: GeminiStandIn, ask: Ask) -> None:
    hasty = client_for(server.url, timeout_seconds=1.5, attempts=2)
    server.state.add_rules(Rule(behaviour=Behaviour.HANG))
    async with asyncio.timeout(60):
        with pytest.raises(GeminiTimeoutError, match=r"within 1\.5 s.*tried 2 times"):
            await ask(hasty)
    await asyncio.to_thread(server.state.wait_until, _all_ended)
    assert _outcomes(server.state.requests) == ["disconnected"] * 2
    await hasty.aclose()


async def test_an_answer_that_drips_does_not_outlive_the_deadline(server: GeminiStandIn, ask: Ask) -> None:
    hasty = client_for(server.url, timeout_seconds=1.5, attempts=1)
    server.state.add_rules(Rule(behaviour=Behaviour.DRIP, seconds=0.2))
    async with asyncio.timeout(60):
        with pytest.raises(GeminiTimeoutError):
            await ask(hasty)
    await asyncio.to_thread(server.state.wait_until, _all_ended)
    assert _outcomes(server.state.requests) == ["disconnected"]
    await hasty.aclose()


async def test_a_slow_answer_within_the_deadline_is_waited_for(server: GeminiStandIn, ask: Ask) -> None:
    server.state.add_rules(Rule(behaviour=Behaviour.SLOW, seconds=0.4))
    made = await ask()
    assert made.spent.calls == 1
    assert made.spent.calling >= 0.4


async def test_a_dead_server_is_named_after_bounded_retries(ask: Ask) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        port = taken.getsockname()[1]
        lonely = client_for(f"http://ops:canary@127.0.0.1:{port}/gemini")
        with pytest.raises(GeminiUnavailableError) as caught:
            await ask(lonely)
        await lonely.aclose()
    message = str(caught.value)
    assert f"Cannot reach Gemini at http://127.0.0.1:{port}" in message
    assert "GEMINI_BASE_URL" in message
    assert "tried 3 times" in message
    assert "canary" not in message


async def test_cancelling_closes_the_connection(server: GeminiStandIn, ask: Ask) -> None:
    server.state.add_rules(Rule(behaviour=Behaviour.HANG, times=1))
    call = asyncio.create_task(ask())
    await asyncio.to_thread(server.state.wait_until, lambda state: state.in_flight == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.to_thread(server.state.wait_until, _all_ended)
    assert _outcomes(server.state.requests) == ["disconnected"]
    assert (await ask()).spent.calls == 1, "the client is as good as before"


async def test_cancelling_during_the_backoff_ends_it_at_once(server: GeminiStandIn, ask: Ask) -> None:
    server.state.add_rules(Rule(behaviour=Behaviour.RATE_LIMITED, retry_after="100"))
    pausing = asyncio.Event()
    call = asyncio.create_task(ask(observer=observing(retrying=lambda *_: pausing.set())))
    async with asyncio.timeout(60):
        await pausing.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert len(server.state.requests) == 1


async def test_many_calls_share_one_client(server: GeminiStandIn, ask: Ask) -> None:
    server.state.latency = LONG
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(ask(text=f"number {i}")) for i in range(12)]
        await asyncio.to_thread(server.state.wait_until, lambda state: state.in_flight == 12)
        server.state.latency = 0.0
    assert all(call.result().spent.calls == 1 for call in calls)
    assert server.state.max_in_flight == 12


async def test_one_client_serves_one_event_loop_after_another(server: GeminiStandIn) -> None:
    client = client_for(server.url)

    async def once() -> tuple[int, int]:
        size = await client.generate(text="…", parts=[], aspect_ratio="1:1", accept=size_of)
        await client.aclose()
        return size

    def several_loops() -> list[tuple[int, int]]:
        return [asyncio.run(once()) for _ in range(3)]

    assert await asyncio.to_thread(several_loops) == [(1024, 1024)] * 3


async def test_one_client_serves_two_event_loops_at_once(server: GeminiStandIn, ask: Ask) -> None:
    client = client_for(server.url)
    server.state.latency = LONG

    async def once() -> int:
        made = await ask(client)
        await client.aclose()
        return made.spent.calls

    elsewhere = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(once())))
    here = asyncio.create_task(once())
    await asyncio.to_thread(server.state.wait_until, lambda state: state.in_flight == 2)
    server.state.latency = 0.0
    assert await asyncio.gather(here, elsewhere) == [1, 1]
    assert server.state.max_in_flight == 2
