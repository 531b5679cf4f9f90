"""The order in which ids become runs: F2 to F5 of pipeline/fairness.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quel_dagster.adapters.database.records import JobDescription
from quel_dagster.pipeline import fairness
from quel_dagster.pipeline.fairness import Bounds, Lanes, Load, next_ids, priority_tags
from quel_dagster.settings import Settings

IDLE = Load(room=100)


def waiting(text: str) -> dict[bytes, str]:
    """`a a b`: two entries of member a, then one of b."""
    return {f"{lane}{place}".encode(): lane for place, lane in enumerate(text.split())}


def chosen(entries: Mapping[bytes, str], load: Load = IDLE, *, room: int = 100, of_one_member: int = 100) -> str:
    return b" ".join(next_ids(entries, load, room=room, of_one_member=of_one_member)).decode()


def test_a_single_member_is_served_in_order() -> None:
    assert chosen(waiting("a a a")) == "a0 a1 a2"


def test_members_take_turns_the_oldest_first() -> None:
    assert chosen(waiting("a a a b b c")) == "a0 b3 c5 a1 b4 a2"


def test_a_member_without_runs_comes_first() -> None:
    load = Load(room=100, live={"a": 2, "b": 1})
    assert chosen(waiting("a a b b c"), load) == "c4 b2 a0 b3 a1"


def test_a_member_beyond_its_share_of_dagsters_queue_waits_in_redis() -> None:
    load = Load(room=100, queued={"a": 2}, live={"a": 5})
    assert chosen(waiting("a a a b"), load, of_one_member=3) == "b3 a0"


def test_no_more_than_there_is_room_for() -> None:
    assert chosen(waiting("a a b b"), room=3) == "a0 b2 a1"
    assert chosen(waiting("a a"), room=0) == ""


@given(
    lanes=st.lists(st.sampled_from("abcd"), max_size=40),
    live=st.dictionaries(st.sampled_from("abcd"), st.integers(0, 6)),
    room=st.integers(0, 50),
    of_one_member=st.integers(1, 10),
)
def test_what_must_hold_of_every_choice(lanes: list[str], live: dict[str, int], room: int, of_one_member: int) -> None:
    entries = waiting(" ".join(lanes))
    got = next_ids(entries, Load(room=room, queued=live, live=live), room=room, of_one_member=of_one_member)

    assert len(set(got)) == len(got) <= room
    runs = Counter(live)
    left = dict(entries)
    for raw in got:
        lane = left.pop(raw)
        assert raw == next(other for other in entries if entries[other] == lane and (other in left or other == raw))
        runs[lane] += 1
        assert runs[lane] <= of_one_member
        others = {other for other in left.values() if runs[other] < of_one_member}
        assert all(runs[lane] - 1 <= runs[other] for other in others), "a member with fewer runs was passed over"
    if len(got) < room:
        assert all(runs[lane] >= of_one_member for lane in left.values()), "room was left although an id waits"


def described(job_id: UUID, member_id: UUID | None, total: int = 1) -> JobDescription:
    return JobDescription(
        job_id=job_id,
        production_id=job_id,
        job_type="single_batch",
        job_status="pending",
        total_images=total,
        member_id=member_id,
        org_id=None,
        production_path=None,
    )


class Table:
    """Rows, and how often each was asked for."""

    def __init__(self, *rows: JobDescription) -> None:
        self.rows = {row.job_id: row for row in rows}
        self.asked: list[int] = []

    def describe(self, job_ids: list[UUID]) -> dict[UUID, JobDescription]:
        self.asked.append(len(job_ids))
        return {job_id: self.rows[job_id] for job_id in job_ids if job_id in self.rows}


def test_a_row_is_read_once_while_its_id_waits_and_forgotten_after() -> None:
    member, ids = uuid4(), [uuid4() for _ in range(3)]
    table, lanes = Table(*(described(job_id, member) for job_id in ids)), Lanes()
    entries = [str(job_id).encode() for job_id in ids]
    assert lanes.of(entries, table.describe) == dict.fromkeys(entries, str(member))
    assert lanes.of(entries[1:], table.describe) == dict.fromkeys(entries[1:], str(member))
    assert table.asked == [3]
    lanes.of(entries, table.describe)
    assert table.asked == [3, 1], "who left the queue is remembered for ever"


def test_entries_without_row_or_member_share_a_lane() -> None:
    nobodys, missing = uuid4(), uuid4()
    table, lanes = Table(described(nobodys, None)), Lanes()
    entries = [b"nonsense", str(nobodys).encode(), str(missing).encode(), b"nonsense"]
    assert lanes.of(entries, table.describe) == dict.fromkeys(entries, "")
    assert len(lanes.of(entries, table.describe)) == 3
    assert table.asked == [2, 1]


def test_one_tick_reads_a_limited_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "ROWS_PER_TICK", 5)
    monkeypatch.setattr(fairness, "ROWS_PER_QUERY", 2)
    ids = [uuid4() for _ in range(8)]
    table, lanes = Table(*(described(job_id, None) for job_id in ids)), Lanes()
    entries = [str(job_id).encode() for job_id in ids]
    assert list(lanes.of(entries, table.describe)) == entries[:5]
    assert table.asked == [2, 2, 1]
    assert list(lanes.of(entries, table.describe)) == entries


@pytest.mark.parametrize(
    ("total", "small", "tags"),
    [(4, 4, {"dagster/priority": "1"}), (5, 4, {}), (1, 0, {}), (0, 4, {}), (-3, 4, {})],
)
def test_small_jobs_go_first(total: int, small: int, tags: dict[str, str]) -> None:
    settings = Settings.read(_env_file=None, small_job_pictures=small)
    assert priority_tags(described(uuid4(), None, total), settings) == tags


def test_a_limit_per_member_bounds_what_it_may_block() -> None:
    """F4: were more of a member's runs to wait than may run, those of a few members would fill the queue."""
    assert Bounds.of(Settings.read(_env_file=None, max_runs_per_member=2)).queued_of_one_member == 2
    assert Bounds.of(Settings.read(_env_file=None)).queued_of_one_member == fairness.QUEUED_RUNS_OF_ONE_MEMBER
    assert Bounds.of(Settings.read(_env_file=None, workers=200)).queued == 400
