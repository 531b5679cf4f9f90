"""Uploads and downloads that wait while the store is unreachable, on real servers behind a proxy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from quel_dagster.adapters.retry_policy import RetryPolicy
from quel_dagster.adapters.storage.outages import PROBE_KEY, OutageTolerantStore
from quel_dagster.errors import ObjectNotFoundError, StorageRefusedError, StorageUnavailableError
from tests.integration.storage.conftest import Remote
from tests.integration.storage.faulty_proxy import Fault, answers, resets

ONCE = RetryPolicy(attempts=1, first_pause=0.01, longest_pause=0.01, attempt_timeout=5, total_timeout=20)
WEBP = "image/webp"


@pytest.fixture
def lines() -> list[str]:
    return []


def tolerant(remote: Remote, *, outage_seconds: float = 60.0) -> OutageTolerantStore:
    return OutageTolerantStore(remote.open(ONCE), outage_seconds=outage_seconds, pause_seconds=0.02)


async def until(remote: Remote, connections: int) -> None:
    async with asyncio.timeout(20):
        while remote.proxy.connections < connections:
            remote.proxy.connected.clear()
            await remote.proxy.connected.wait()


def answers_by(status_of: Callable[[bytes], int]) -> Fault:
    """Answer with the status that the first line of the request calls for."""

    async def fault(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lengths = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line]
        request = asyncio.StreamReader()
        request.feed_data(head + await reader.readexactly(sum(lengths)))
        request.feed_eof()
        status = status_of(head.split(b"\r\n")[0])
        await answers(status, body=b'{"Id": "1", "Key": "a"}' if status == 200 else b"")(request, writer)

    return fault


@pytest.mark.parametrize("fault", [answers(503), answers(507), answers(544), resets])
async def test_uploads_in_an_outage_are_kept_and_stored_when_it_ends(
    remote: Remote, fault: Fault, lines: list[str]
) -> None:
    store = tolerant(remote)
    remote.proxy.always = fault
    keys = [f"kept/{number}.webp" for number in range(8)]
    uploads = [
        asyncio.create_task(store.put(key, key.encode(), content_type=WEBP, report=lines.append)) for key in keys
    ]
    await until(remote, len(keys) + 3)
    assert not any(upload.done() for upload in uploads)
    remote.proxy.always = None
    async with asyncio.timeout(20):
        await asyncio.gather(*uploads)
    for key in keys:
        assert await store.get(key, max_bytes=100, report=lines.append) == key.encode()
    assert len(lines) == len(keys)
    assert all("the picture is kept" in line for line in lines)


async def test_one_request_at_a_time_asks_an_unreachable_store(remote: Remote, lines: list[str]) -> None:
    store = tolerant(remote)
    at_once: list[int] = []
    open_now = 0

    async def refuses_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now
        open_now += 1
        at_once.append(open_now)
        await answers(503)(reader, writer)
        open_now -= 1

    remote.proxy.always = refuses_slowly
    uploads = [
        asyncio.create_task(store.put(f"turn/{number}.webp", b"1", content_type=WEBP, report=lines.append))
        for number in range(10)
    ]
    await until(remote, 20)
    assert max(at_once[12:]) == 1
    remote.proxy.always = None
    async with asyncio.timeout(20):
        await asyncio.gather(*uploads)


async def test_the_gate_is_closed_during_an_outage_and_opens_after_it(remote: Remote, lines: list[str]) -> None:
    store = tolerant(remote)
    await store.wait_until_available(lines.append)
    remote.proxy.always = answers(503)
    upload = asyncio.create_task(store.put("gate/a.webp", b"1", content_type=WEBP, report=lines.append))
    await until(remote, 2)
    gate = asyncio.create_task(store.wait_until_available(lines.append))
    await until(remote, 6)
    assert not gate.done()
    remote.proxy.always = None
    async with asyncio.timeout(20):
        await asyncio.gather(gate, upload)
    assert any("no Gemini call begins" in line for line in lines)


async def test_the_gate_opens_when_the_kept_upload_was_cancelled(remote: Remote, lines: list[str]) -> None:
    store = tolerant(remote)
    remote.proxy.always = answers(503)
    upload = asyncio.create_task(store.put("gate/b.webp", b"1", content_type=WEBP, report=lines.append))
    await until(remote, 2)
    upload.cancel()
    gate = asyncio.create_task(store.wait_until_available(lines.append))
    await until(remote, 4)
    assert not gate.done()
    remote.proxy.always = None
    async with asyncio.timeout(20):
        await gate


async def test_a_full_disk_that_still_answers_reads_keeps_the_gate_closed(remote: Remote, lines: list[str]) -> None:
    store = tolerant(remote)
    await store.put("full/seed.webp", b"1", content_type=WEBP, report=lines.append)
    remote.proxy.always = answers_by(lambda line: 507 if line.startswith((b"PUT", b"POST")) else 404)
    upload = asyncio.create_task(store.put("full/a.webp", b"1", content_type=WEBP, report=lines.append))
    await until(remote, 3)
    gate = asyncio.create_task(store.wait_until_available(lines.append))
    await until(remote, 6)
    assert not gate.done()
    remote.proxy.always = None
    async with asyncio.timeout(20):
        await asyncio.gather(gate, upload)


async def test_an_outage_beyond_the_bound_fails_with_the_setting_to_change(remote: Remote, lines: list[str]) -> None:
    store = tolerant(remote, outage_seconds=0.2)
    remote.proxy.always = answers(503)
    async with asyncio.timeout(20):
        with pytest.raises(StorageUnavailableError, match="QUEL_OUTAGE_HOURS"):
            await store.put("late/a.webp", b"1", content_type=WEBP, report=lines.append)
        with pytest.raises(StorageUnavailableError, match="QUEL_OUTAGE_HOURS"):
            await store.wait_until_available(lines.append)


async def test_a_refused_upload_is_not_waited_for(remote: Remote, lines: list[str]) -> None:
    store = tolerant(remote)
    remote.proxy.always = answers(403)
    with pytest.raises(StorageRefusedError):
        await store.put("no/a.webp", b"1", content_type=WEBP, report=lines.append)
    assert lines == []


async def test_a_download_waits_out_an_outage(remote: Remote, lines: list[str]) -> None:
    store = tolerant(remote)
    await store.put("back/a.webp", b"1", content_type=WEBP, report=lines.append)
    remote.proxy.always = resets
    download = asyncio.create_task(store.get("back/a.webp", max_bytes=10, report=lines.append))
    await until(remote, remote.proxy.connections + 5)
    assert not download.done()
    remote.proxy.always = None
    async with asyncio.timeout(20):
        assert await download == b"1"
    with pytest.raises(ObjectNotFoundError):
        await store.store.size(PROBE_KEY)


async def test_download_that_failed_just_before_the_end_of_an_outage_is_made_again(
    remote: Remote, lines: list[str]
) -> None:
    """The probe after the failure is answered already."""
    await tolerant(remote).put("back/b.webp", b"there", content_type=WEBP)
    store = tolerant(remote)  # without an open connection
    remote.proxy.planned.append(resets)
    assert await store.get("back/b.webp", max_bytes=10, report=lines.append) == b"there"


async def test_one_object_that_cannot_be_read_closes_nothing(remote: Remote, lines: list[str]) -> None:
    store = tolerant(remote)
    remote.proxy.always = answers_by(lambda line: 500 if b"bad.webp" in line else 404)
    with pytest.raises(StorageUnavailableError):
        await store.get("bad.webp", max_bytes=10, report=lines.append)
    remote.proxy.always = None
    await store.wait_until_available(lines.append)
    assert lines == []


async def test_one_object_that_cannot_be_stored_fails_while_others_are_stored(remote: Remote, lines: list[str]) -> None:
    store = tolerant(remote)
    remote.proxy.always = answers_by(lambda line: 500 if b"bad.webp" in line else 200)
    bad = asyncio.create_task(store.put("one/bad.webp", b"1", content_type=WEBP, report=lines.append))
    async with asyncio.timeout(20):
        while not bad.done():
            await store.put("one/good.webp", b"1", content_type=WEBP, report=lines.append)
        with pytest.raises(StorageUnavailableError, match="while other objects are stored"):
            await bad
