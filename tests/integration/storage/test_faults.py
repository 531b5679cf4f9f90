"""Stores that fail: what is tried again, what is not, and what the error says."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import Awaitable, Callable

import pytest

from quel_dagster.adapters.retry_policy import RetryPolicy
from quel_dagster.adapters.storage.store import ObjectStore, open_store
from quel_dagster.errors import StorageError, StorageRefusedError, StorageUnavailableError
from tests.integration.storage.conftest import (
    ACCESS_KEY,
    HURRIED,
    SECRET_KEY,
    Remote,
    s3_settings,
    supabase_settings,
)
from tests.integration.storage.faulty_proxy import (
    Fault,
    answers,
    cuts_the_body,
    drips,
    drips_the_head,
    faulty_proxy,
    hangs,
    pours,
    resets,
)
from tests.integration.storage.supabase_server import SERVICE_KEY

IMPATIENT = RetryPolicy(attempts=2, first_pause=0.01, longest_pause=0.02, attempt_timeout=0.3, total_timeout=5)

Call = Callable[[ObjectStore], Awaitable[object]]


def put(store: ObjectStore) -> Awaitable[object]:
    return store.put("faults/a.webp", b"picture", content_type="image/webp")


def get(store: ObjectStore) -> Awaitable[object]:
    return store.get("faults/a.webp", max_bytes=2_000_000)


def size(store: ObjectStore) -> Awaitable[object]:
    return store.size("faults/a.webp")


def delete(store: ObjectStore) -> Awaitable[object]:
    return store.delete("faults/a.webp")


async def listing(store: ObjectStore) -> object:
    return [(entry.key, entry.size) async for entry in store.list("faults")]


every_call = pytest.mark.parametrize("call", [put, get, size, delete, listing])


@pytest.fixture
async def seeded(remote: Remote) -> Remote:
    await put(remote.open())
    remote.proxy.connections = 0
    remote.proxy.connected.clear()
    return remote


@every_call
@pytest.mark.parametrize(
    "fault", [answers(503), answers(500), answers(429), resets], ids=["503", "500", "429", "reset"]
)
async def test_a_passing_fault_is_not_noticed(seeded: Remote, call: Call, fault: Fault) -> None:
    seeded.proxy.planned.extend([fault, fault])
    answer = await call(seeded.open())
    expected: dict[Call, object] = {put: None, get: b"picture", size: 7, delete: None, listing: [("faults/a.webp", 7)]}
    assert answer == expected[call]
    assert seeded.proxy.connections == 3


async def test_a_download_cut_short_is_begun_again(seeded: Remote) -> None:
    seeded.proxy.planned.append(cuts_the_body)
    assert await get(seeded.open()) == b"picture"


@every_call
@pytest.mark.parametrize("status", [500, 503])
async def test_a_lasting_fault_is_given_up_with_its_status(seeded: Remote, call: Call, status: int) -> None:
    seeded.proxy.always = answers(status, body=f"internal: {SECRET_KEY} {SERVICE_KEY}".encode())
    with pytest.raises(StorageUnavailableError, match=rf"faults.*: .*HTTP {status}"):
        await call(seeded.open())
    assert seeded.proxy.connections == HURRIED.attempts


@every_call
async def test_connections_that_are_always_reset(seeded: Remote, call: Call) -> None:
    seeded.proxy.always = resets
    with pytest.raises(StorageUnavailableError, match="faults"):
        await call(seeded.open())
    assert seeded.proxy.connections == HURRIED.attempts


@every_call
@pytest.mark.parametrize("settings", [s3_settings, supabase_settings])
async def test_a_store_that_is_not_there(settings: Callable[[int], object], call: Call) -> None:
    async with faulty_proxy(0) as proxy:
        closed = proxy.port
    store = open_store(settings(closed), retry_policy=HURRIED)  # type: ignore[arg-type]
    with pytest.raises(StorageUnavailableError):
        await call(store)
    await store.aclose()


@every_call
@pytest.mark.parametrize("fault", [hangs, drips_the_head])
async def test_a_slow_store_is_waited_for_only_so_long(seeded: Remote, call: Call, fault: Fault) -> None:
    seeded.proxy.always = fault
    async with asyncio.timeout(20):
        with pytest.raises(StorageUnavailableError, match="faults"):
            await call(seeded.open(IMPATIENT))
    assert seeded.proxy.connections <= IMPATIENT.attempts


async def test_a_dripping_body_is_waited_for_only_so_long(seeded: Remote) -> None:
    seeded.proxy.always = drips
    async with asyncio.timeout(20):
        with pytest.raises(StorageUnavailableError, match=r"no complete answer within 0\.3 s"):
            await get(seeded.open(IMPATIENT))


async def test_the_total_deadline_holds_over_all_attempts(seeded: Remote) -> None:
    seeded.proxy.always = answers(503)
    endless = RetryPolicy(attempts=10_000, first_pause=0.05, longest_pause=0.05, attempt_timeout=5, total_timeout=0.5)
    async with asyncio.timeout(20):
        with pytest.raises(StorageUnavailableError, match=r"given up after 0\.5 s; last: .*HTTP 503"):
            await get(seeded.open(endless))
    assert seeded.proxy.connections > 1


async def test_cancelling_is_not_waiting(seeded: Remote) -> None:
    seeded.proxy.always = hangs
    call = asyncio.ensure_future(get(seeded.open()))
    await seeded.proxy.connected.wait()
    call.cancel()
    async with asyncio.timeout(20):
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_a_body_without_end_is_cut_at_the_limit(seeded: Remote) -> None:
    seeded.proxy.always = pours
    with pytest.raises(StorageError, match="larger than the 2,000,000 bytes"):
        await get(seeded.open())
    assert seeded.proxy.connections == 1


async def test_a_declared_length_beyond_the_limit_is_not_read(seeded: Remote) -> None:
    seeded.proxy.always = drips
    with pytest.raises(StorageError, match=r"1,000\b") as refusal:
        await seeded.open().get("faults/a.webp", max_bytes=1000)
    assert not refusal.value.transient
    assert seeded.proxy.connections == 1


@every_call
@pytest.mark.parametrize("status", [302, 308])
async def test_a_redirect_is_not_followed(seeded: Remote, call: Call, status: int) -> None:
    if call is listing and seeded.kind == "s3":
        pytest.skip("obstore sends this request, see the next test")
    async with faulty_proxy(0) as elsewhere:
        seeded.proxy.always = answers(status, headers=f"location: http://127.0.0.1:{elsewhere.port}/trap\r\n")
        with pytest.raises(StorageError):
            await call(seeded.open())
        assert elsewhere.connections == 0


async def test_a_redirected_s3_listing_keeps_its_signature_to_itself(moto_port: int) -> None:
    heads: list[str] = []

    async def records(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode().lower())

    async with faulty_proxy(moto_port) as proxy, faulty_proxy(0) as elsewhere:
        elsewhere.always = records
        proxy.always = answers(302, headers=f"location: http://127.0.0.1:{elsewhere.port}/trap\r\n")
        store = open_store(s3_settings(proxy.port), retry_policy=HURRIED)
        with pytest.raises(StorageError):
            await listing(store)
        await store.aclose()
    assert heads
    assert not any("authorization" in head or "canary" in head for head in heads)


@every_call
@pytest.mark.parametrize("status", [400, 403])
async def test_a_refusal_is_not_repeated(seeded: Remote, call: Call, status: int) -> None:
    seeded.proxy.always = answers(status, body=f"<AWSAccessKeyId>{ACCESS_KEY}</AWSAccessKeyId>{SERVICE_KEY}".encode())
    with pytest.raises(StorageError) as refusal:
        await call(seeded.open())
    assert not refusal.value.transient
    assert seeded.proxy.connections == 1


@every_call
async def test_no_error_tells_a_secret(seeded: Remote, call: Call) -> None:
    echo = f"{ACCESS_KEY} {SECRET_KEY} {SERVICE_KEY}"
    store = seeded.open()
    for status in (301, 400, 401, 403, 404, 500):
        if (call, status) == (delete, 404):
            continue  # unset variables need no removal
        seeded.proxy.always = answers(status, body=echo.encode(), headers=f"x-echo: {echo}\r\n")
        with pytest.raises(StorageError) as failure:
            await call(store)
        printed = "".join(traceback.format_exception(failure.value)) + repr(failure.value)
        assert "canary" not in printed.lower()
        assert "signature" not in printed.lower()
        assert "\n" not in str(failure.value)


async def test_no_log_line_tells_a_secret(seeded: Remote, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    store = seeded.open()
    await put(store)
    await get(store)
    await size(store)
    # the S3 server runs in this process as well, and logs what it is asked
    logged = "\n".join(line.getMessage() for line in caplog.records if line.name != "werkzeug").lower()
    assert "faults/a.webp" in logged  # the requests are in the log …
    assert "canary" not in logged
    assert "signature" not in logged  # … without what signs them


@every_call
async def test_an_answer_that_makes_no_sense(seeded: Remote, call: Call) -> None:
    seeded.proxy.always = answers(200, body=b"<html>welcome</html>", headers="content-length: many\r\n")
    with pytest.raises(StorageUnavailableError):
        await call(seeded.open())


def body_with(status_code: object, **more: str) -> bytes:
    return json.dumps({"statusCode": status_code, "error": "Bad", "message": "Bad", **more}).encode()


@pytest.mark.parametrize(
    ("status", "body", "remedy"),
    [
        (401, b"", "check"),
        (403, b"", "check"),
        (404, b"", "bucket"),
        (402, b"", "payment"),
        (413, b"", "too large"),
        (415, b"", "content type"),
        (400, b"", "check"),
        (400, body_with("403"), "check"),
        (400, body_with("404"), "bucket"),
        (400, body_with("402"), "payment"),
        (400, body_with("413"), "too large"),
        (400, body_with("415"), "content type"),
        (400, body_with("InvalidMimeType"), "content type"),
        (400, body_with(None, code="NoSuchBucket"), "bucket"),
    ],
)
async def test_an_upload_that_the_store_refuses_raises_the_remedy_at_once(
    seeded: Remote, status: int, body: bytes, remedy: str
) -> None:
    if seeded.kind == "s3" and body:
        pytest.skip("Supabase's way to answer")
    seeded.proxy.always = answers(status, body=body)
    with pytest.raises(StorageRefusedError, match=remedy):
        await put(seeded.open())
    assert seeded.proxy.connections == 1


@every_call
@pytest.mark.parametrize(
    "fault",
    [
        answers(544, body=body_with("DatabaseTimeout")),
        answers(400, body=body_with("DatabaseTimeout")),
        answers(400, body=body_with("544")),
        answers(400, body=body_with(None, code="SlowDown")),
        answers(520, body=b"<html>unknown error</html>"),
    ],
)
async def test_a_passing_fault_in_supabases_words_is_tried_again(seeded: Remote, call: Call, fault: Fault) -> None:
    if seeded.kind == "s3":
        pytest.skip("Supabase's way to answer")
    seeded.proxy.planned.extend([fault, fault])
    await call(seeded.open())
    assert seeded.proxy.connections == 3


async def test_a_wrong_service_key_names_its_variable(supabase: object) -> None:
    store = open_store(supabase_settings(supabase.port, key="wrong"), retry_policy=HURRIED)  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match="SUPABASE_SERVICE_KEY"):
        await put(store)
    await store.aclose()


async def test_a_bucket_that_is_not_there(seeded: Remote) -> None:
    seeded.proxy.always = answers(404)
    with pytest.raises(StorageError, match="bucket"):
        await put(seeded.open())
