from __future__ import annotations

import asyncio
import io
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import pytest
from PIL import Image

from quel_dagster.engine import reference_cache as references
from quel_dagster.engine.reference_cache import DOWNLOADS_AT_ONCE, Fetched, ReferenceCache
from quel_dagster.errors import ObjectNotFoundError, StorageKeyError, StorageUnavailableError
from quel_dagster.jobs.decoding import MAX_BYTES
from quel_dagster.jobs.model import Attach
from quel_dagster.jobs.pictures import Picture, load_picture


def jpeg(size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "JPEG")
    return buffer.getvalue()


PICTURE = jpeg()


@dataclass
class Shop:
    """An attach table and an object store in memory, which count requests and wait on demand."""

    rows: dict[int, Attach] = field(default_factory=dict)
    objects: dict[str, bytes | Exception] = field(default_factory=dict)
    queries: list[list[int]] = field(default_factory=list)
    downloads: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)
    database_error: Exception | None = None
    #: downloads wait for it
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    under_way: int = 0
    most_under_way: int = 0
    busy: asyncio.Event = field(default_factory=asyncio.Event)
    backend: str = "memory"

    def __post_init__(self) -> None:
        self.gate.set()

    def add(self, *attach_ids: int, content: bytes | Exception = PICTURE) -> None:
        for attach_id in attach_ids:
            self.rows[attach_id] = Attach(attach_id=attach_id, file_path=f"uploads/{attach_id}.jpg", directory=None)
            self.objects[f"uploads/{attach_id}.jpg"] = content

    async def find_attaches(self, attach_ids: Sequence[int]) -> Mapping[int, Attach]:
        self.queries.append(list(attach_ids))
        await asyncio.sleep(0)
        if self.database_error is not None:
            raise self.database_error
        return {attach_id: self.rows[attach_id] for attach_id in attach_ids if attach_id in self.rows}

    async def get(self, key: str, *, max_bytes: int, report: Callable[[str], None]) -> bytes:
        assert max_bytes == MAX_BYTES
        self.downloads[key] += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.busy.set()
        try:
            await self.gate.wait()
            content = self.objects[key]
            if isinstance(content, Exception):
                raise content
            return content
        finally:
            self.under_way -= 1

    def cache(self, *, max_bytes: int = 10**9) -> ReferenceCache:
        return ReferenceCache(
            find_attaches=self.find_attaches,
            store=self,  # type: ignore[arg-type]
            max_bytes=max_bytes,
            log=self.lines.append,
        )


async def fetch(cache: ReferenceCache, attach_ids: Iterable[int], member_id: UUID | None = None) -> Fetched:
    async with cache.held(list(attach_ids), member_id=member_id) as fetched:
        return fetched


async def test_pictures_come_with_the_log_lines_people_search_for() -> None:
    shop = Shop()
    shop.add(39070)
    fetched = await fetch(shop.cache(), [39070])
    picture = fetched.pictures[39070]
    assert (picture.width, picture.height, picture.data) == (40, 30, PICTURE)
    assert fetched.missing == {}
    assert shop.lines == [
        "Fetching attach info: 39070",
        "Downloading image: AttachID=39070",
        f"Image downloaded successfully: {len(PICTURE)} bytes",
    ]


async def test_pictures_are_decoded_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def noting_its_thread(data: bytes) -> Picture:
        threads.append(threading.current_thread())
        return load_picture(data)

    monkeypatch.setattr(references, "load_picture", noting_its_thread)
    shop = Shop()
    shop.add(1)
    await fetch(shop.cache(), [1])
    assert threads != [threading.main_thread()]
    assert len(threads) == 1


async def test_nothing_is_asked_for_nothing() -> None:
    shop = Shop()
    assert await fetch(shop.cache(), []) == Fetched()
    assert shop.queries == []


async def test_one_query_finds_all_and_an_id_named_twice_is_fetched_once() -> None:
    shop = Shop()
    shop.add(1, 2, 3)
    fetched = await fetch(shop.cache(), [3, 1, 3, 2, 1])
    assert list(fetched.pictures) == [3, 1, 2]
    assert shop.queries == [[3, 1, 2]]
    assert set(shop.downloads.values()) == {1}


async def test_a_reference_of_several_units_is_downloaded_once() -> None:
    shop = Shop()
    shop.add(1, 2, 3)
    shop.gate.clear()
    cache = shop.cache()
    units = [[1, 2], [2, 3], [1, 2, 3], [1, 2, 3]]
    cache.expect(units)
    askers = [asyncio.create_task(fetch(cache, ids)) for ids in units]
    await shop.busy.wait()
    shop.gate.set()
    fetched = await asyncio.gather(*askers)
    assert [list(one.pictures) for one in fetched] == units
    assert shop.downloads == {"uploads/1.jpg": 1, "uploads/2.jpg": 1, "uploads/3.jpg": 1}
    assert shop.queries == [[1, 2], [3]]


async def test_a_reference_is_dropped_after_the_last_unit_that_needs_it() -> None:
    shop = Shop()
    shop.add(1, 2)
    cache = shop.cache()
    cache.expect([[1, 2], [1]])
    await fetch(cache, [1, 2])
    await fetch(cache, [1])
    assert shop.downloads == {"uploads/1.jpg": 1, "uploads/2.jpg": 1}
    await fetch(cache, [1, 2])  # not foreseen: both are downloaded again
    assert shop.downloads == {"uploads/1.jpg": 2, "uploads/2.jpg": 2}


async def test_beyond_the_bound_the_reference_held_longest_ago_is_dropped() -> None:
    shop = Shop()
    shop.add(1, 2, 3)
    cache = shop.cache(max_bytes=2 * len(PICTURE))
    units = [[1], [2], [1], [3], [1], [2]]
    cache.expect(units)
    for unit in units:
        assert list((await fetch(cache, unit)).pictures) == unit
    assert shop.downloads == {"uploads/1.jpg": 1, "uploads/2.jpg": 2, "uploads/3.jpg": 1}


async def test_references_beyond_the_bound_are_left_out_with_the_setting_named() -> None:
    shop = Shop()
    shop.add(*range(5))
    fetched = await fetch(shop.cache(max_bytes=3 * len(PICTURE)), range(5))
    assert len(fetched.pictures) == 3
    assert all("QUEL_MAX_REFERENCE_MEGABYTES" in reason for reason in fetched.missing.values())


async def test_units_hold_their_references_one_after_the_other() -> None:
    shop = Shop()
    shop.add(1, 2)
    cache = shop.cache(max_bytes=len(PICTURE))
    results = await asyncio.gather(*(fetch(cache, [attach_id]) for attach_id in (1, 2)))
    assert [list(result.pictures) for result in results] == [[1], [2]]


async def test_a_picture_generated_for_another_member_is_not_downloaded() -> None:
    member, other = uuid4(), uuid4()
    shop = Shop()
    for attach_id, owner in ((1, member), (2, other)):
        key = f"generated-images/user-{owner}/a.webp"
        shop.rows[attach_id] = Attach(attach_id=attach_id, file_path=key, directory=None)
        shop.objects[key] = PICTURE
    fetched = await fetch(shop.cache(), [1, 2], member)
    assert list(fetched.pictures) == [1]
    assert "another member" in fetched.missing[2]
    assert list(shop.downloads) == [f"generated-images/user-{member}/a.webp"]
    assert any(line.startswith("Reference 2 left out") for line in shop.lines)


async def test_downloads_run_side_by_side_up_to_the_limit() -> None:
    shop = Shop()
    shop.add(*range(20))
    shop.gate.clear()
    asking = asyncio.create_task(fetch(shop.cache(), range(20)))
    async with asyncio.timeout(10):
        while shop.under_way < DOWNLOADS_AT_ONCE:  # noqa: ASYNC110 - the last of them
            await asyncio.sleep(0)
    shop.gate.set()
    assert len((await asking).pictures) == 20
    assert shop.most_under_way == DOWNLOADS_AT_ONCE


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (ObjectNotFoundError("download of uploads/2.jpg: no object is stored under this key"), "no object is stored"),
        (StorageKeyError("storage key is refused"), "refused"),
        (b"<svg/>", "not a JPEG"),
        (PICTURE[:-340], "cut short"),
        (b"", "empty"),
    ],
)
async def test_a_reference_that_cannot_be_had_is_named_and_the_others_come(
    content: bytes | Exception, reason: str
) -> None:
    shop = Shop()
    shop.add(1, 3)
    shop.add(2, content=content)
    cache = shop.cache()
    for _ in range(2):
        fetched = await fetch(cache, [1, 2, 3])
        assert list(fetched.pictures) == [1, 3]
        assert reason in fetched.missing[2]
    assert shop.downloads["uploads/2.jpg"] == 1
    left_out = [line for line in shop.lines if line.startswith("Reference 2 left out: ")]
    assert len(left_out) == 1
    assert reason in left_out[0]


async def test_a_row_that_is_missing_or_empty_or_points_outside_is_not_downloaded() -> None:
    shop = Shop()
    shop.rows[2] = Attach(attach_id=2, file_path="", directory=None)
    shop.rows[3] = Attach(attach_id=3, file_path="../../etc/passwd", directory=None)
    fetched = await fetch(shop.cache(), [1, 2, 3])
    assert "no such row" in fetched.missing[1]
    assert "neither a file path nor a directory" in fetched.missing[2]
    assert "refused" in fetched.missing[3]
    assert not shop.downloads
    assert [line.partition(":")[0] for line in shop.lines[3:]] == [f"Reference {n} left out" for n in (1, 2, 3)]


async def test_the_row_decides_the_key() -> None:
    shop = Shop(objects={"uploads/upload-7.jpg": PICTURE})
    shop.rows[7] = Attach(attach_id=7, file_path="", directory="upload-7.jpg")
    assert list((await fetch(shop.cache(), [7])).pictures) == [7]


async def test_a_store_that_was_unavailable_is_asked_again() -> None:
    shop = Shop()
    shop.add(1, content=StorageUnavailableError("the store answered HTTP 503"))
    cache = shop.cache()
    assert "503" in (await fetch(cache, [1])).missing[1]
    shop.add(1)
    assert list((await fetch(cache, [1])).pictures) == [1]


async def test_a_cancelled_asker_does_not_spoil_the_others() -> None:
    shop = Shop()
    shop.add(1, 2)
    shop.gate.clear()
    cache = shop.cache()
    first, second = (asyncio.create_task(fetch(cache, [1, 2])) for _ in range(2))
    await shop.busy.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    shop.gate.set()
    assert list((await second).pictures) == [1, 2]
    assert set(shop.downloads.values()) == {1}


async def test_what_a_cancelled_asker_began_is_there_for_the_next() -> None:
    shop = Shop()
    shop.add(1)
    shop.gate.clear()
    cache = shop.cache()
    asking = asyncio.create_task(fetch(cache, [1]))
    await shop.busy.wait()
    asking.cancel()
    await asyncio.wait([asking])
    shop.gate.set()
    assert list((await fetch(cache, [1])).pictures) == [1]
    assert shop.downloads["uploads/1.jpg"] == 1


async def test_an_asker_cancelled_during_the_query_does_not_spoil_the_others() -> None:
    shop = Shop()
    shop.add(1)
    cache = shop.cache()
    first, second = (asyncio.create_task(fetch(cache, [1])) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert list((await second).pictures) == [1]
    assert shop.queries == [[1]]


async def test_a_database_that_fails_is_no_fault_of_the_references() -> None:
    shop = Shop(database_error=ConnectionError("gone"))
    shop.add(1, 2)
    cache = shop.cache()
    with pytest.raises(ConnectionError):
        await fetch(cache, [1, 2])
    shop.database_error = None
    assert list((await fetch(cache, [1, 2])).pictures) == [1, 2]
    assert not any("left out" in line for line in shop.lines)


async def test_closing_stops_loads_without_a_waiter() -> None:
    shop = Shop()
    shop.add(1)
    shop.gate.clear()
    cache = shop.cache()
    asking = asyncio.create_task(fetch(cache, [1]))
    await shop.busy.wait()
    asking.cancel()
    await cache.aclose()
    assert shop.under_way == 0
