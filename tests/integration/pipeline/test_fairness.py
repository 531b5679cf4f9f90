"""Members take turns, and a backlog stays in Redis: the sensor's ticks over real rows, lists and runs."""

from __future__ import annotations

import resource
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
import yaml
from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    RunRecord,
    RunRequest,
    RunsFilter,
    SensorResult,
)
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.tags import RETRY_NUMBER_TAG
from dagster._core.utils import make_new_run_id

from quel_dagster.adapters.intake import NEXT_PROBE, PROBE_JOB_SECONDS, Pauser, pause_intake, resume_intake
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.pipeline import fairness, sensors
from quel_dagster.pipeline.fairness import Bounds, Lanes, LiveRuns, Load
from quel_dagster.platform.daemon import PromptRunQueueDaemon
from quel_dagster.platform.run_queue import AGED, StartOrder
from quel_dagster.platform.tags import MEMBER_TAG
from quel_dagster.settings import Settings
from tests.integration.conftest import events_in_one_file
from tests.integration.pipeline.test_sensor import sentence, tick

pytestmark = pytest.mark.usefixtures("worker")


@pytest.fixture(autouse=True)
def _short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr(sensors, "APART_SECONDS", 0.0)
    monkeypatch.setattr(sensors, "_lanes", Lanes())


@pytest.fixture(autouse=True)
def _small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least that Dagster's queue holds, as few runs execute at a time."""
    monkeypatch.setenv("QUEL_WORKER_PROCESSES", "2")
    monkeypatch.setenv("QUEL_RUNS_PER_PROCESS", "1")


@pytest.fixture
def dagster() -> Iterator[DagsterInstance]:
    """An instance of the test's own, since the runs in it are counted."""
    with DagsterInstance.ephemeral() as instance:
        yield instance


#: Fewer than a tick asks for: the workers are the bottleneck, as behind every backlog.
ENDED_PER_TICK = 6


def jobs_of_members(url: str, *counts: int, total_images: int = 1) -> list[list[UUID]]:
    """Jobs in the tables: so many of each of so many members."""
    made = []
    with psycopg.connect(url, autocommit=True) as connection:
        for count in counts:
            member_id = uuid4()
            connection.execute(
                "insert into quel_member (quel_member_id, quel_email, provider, provider_sub)"
                " values (%s, %s, 'test', 'test')",
                (member_id, f"{member_id}@example.org"),
            )
            rows = connection.execute(
                "with productions as (insert into quel_production_photo (quel_member_id)"
                " select %(member)s from generate_series(1, %(count)s) returning production_id)"
                " insert into quel_production_jobs"
                " (production_id, job_type, batch_index, total_images, job_input_data, quel_member_id)"
                " select production_id, 'simple_general', 0, %(total)s, '{}', %(member)s from productions"
                " returning job_id",
                {"member": member_id, "count": count, "total": total_images},
            ).fetchall()
            made.append([row[0] for row in rows])
    return made


def asked_for(instance: DagsterInstance) -> list[RunRequest]:
    """Return the requests of one tick; nothing when it returns a reason."""
    answer = tick(instance)
    return list(answer.run_requests or []) if isinstance(answer, SensorResult) else []


ORIGIN = RemoteJobOrigin(
    RemoteRepositoryOrigin(GrpcServerCodeLocationOrigin(host="127.0.0.1", port=1, location_name="quel"), "defs"),
    "image_job",
)


def enqueue(instance: DagsterInstance, requests: Sequence[RunRequest]) -> None:
    """Runs as the sensor daemon makes them, waiting in Dagster's queue."""
    for request in requests:
        instance.run_storage.add_run(
            DagsterRun(
                job_name="image_job",
                run_id=make_new_run_id(),
                run_config=request.run_config,
                tags={**request.tags, "dagster/run_key": str(request.run_key)},
                status=DagsterRunStatus.QUEUED,
                remote_job_origin=ORIGIN,
            )
        )


def end(instance: DagsterInstance, run: DagsterRun, event: DagsterEventType = DagsterEventType.RUN_SUCCESS) -> None:
    """Add an event after which Dagster changes a run's status."""
    instance.run_storage.handle_run_event(run.run_id, DagsterEvent(event.value, run.job_name))


def in_queue(instance: DagsterInstance) -> list[DagsterRun]:
    return list(instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.QUEUED]), ascending=True))


def ids(runs: Sequence[DagsterRun | RunRequest]) -> list[UUID]:
    return [UUID(run.tags["quel/job_id"]) for run in runs]


def test_one_id_of_another_member_does_not_wait_behind_five_hundred(
    dagster: DagsterInstance, queue: JobQueue, worker: Mapping[str, str]
) -> None:
    many, (one,) = jobs_of_members(worker["DATABASE_URL"], 500, 1)
    queue.push(*many)
    while len(in_queue(dagster)) < fairness.QUEUED_RUNS_OF_ONE_MEMBER:
        enqueue(dagster, asked_for(dagster))
    queue.push(one)

    (request, *_) = asked_for(dagster)

    assert ids([request]) == [one]
    assert [run.tags["quel/job_id"] for run in in_queue(dagster)] == [
        str(job_id) for job_id in many[: fairness.QUEUED_RUNS_OF_ONE_MEMBER]
    ]


def test_rest_of_a_backlog_stays_in_redis_with_a_reason(
    dagster: DagsterInstance, queue: JobQueue, worker: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fairness, "QUEUED_RUNS", 6)
    monkeypatch.setattr(fairness, "QUEUED_RUNS_OF_ONE_MEMBER", 4)
    first, second = jobs_of_members(worker["DATABASE_URL"], 10, 10)
    queue.push(*first, *second)

    enqueue(dagster, asked_for(dagster))
    assert len(in_queue(dagster)) == 6
    assert "14 ids wait in jobs:queue" in sentence(tick(dagster))
    assert queue.depths() == {"again": 0, "queue": 14, "processing": 0, "dead": 0}

    end(dagster, in_queue(dagster)[0])
    assert len(asked_for(dagster)) == 1


def test_a_tick_cut_off_halfway_asks_for_the_same_runs_and_for_no_more_than_there_is_room_for(
    dagster: DagsterInstance, queue: JobQueue, worker: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fairness, "QUEUED_RUNS", 6)
    first, second = jobs_of_members(worker["DATABASE_URL"], 10, 10)
    queue.push(*first, *second)
    asked = asked_for(dagster)
    enqueue(dagster, asked[:2])

    again = asked_for(dagster)

    assert [request.run_key for request in again] == [request.run_key for request in asked[2:]]
    assert len(in_queue(dagster)) + len(again) == 6


def test_the_same_id_far_apart_in_a_backlog_becomes_one_run(
    dagster: DagsterInstance, queue: JobQueue, worker: Mapping[str, str]
) -> None:
    (many,) = jobs_of_members(worker["DATABASE_URL"], 120)
    queue.push(*many, many[0])
    asked = asked_for(dagster)
    assert ids(asked) == many[: sensors.RUNS_PER_TICK]
    assert queue.depths()["queue"] == 120 - len(asked)


def test_what_can_never_run_leaves_a_backlog_as_well(
    dagster: DagsterInstance, queue: JobQueue, worker: Mapping[str, str]
) -> None:
    (many,) = jobs_of_members(worker["DATABASE_URL"], 60)
    queue.push("nonsense", *many, uuid4())
    for _ in range(3):
        asked_for(dagster)
    assert {letter.reason for letter in queue.letters()} == {"not a UUID", "no such row in quel_production_jobs"}


def test_a_backlog_runs_in_the_order_of_each_member_while_ticks_and_memory_stay_small(
    dagster: DagsterInstance, queue: JobQueue, worker: Mapping[str, str]
) -> None:
    """A day's ids, scaled down: the runs are made and ended, not executed."""
    members = jobs_of_members(worker["DATABASE_URL"], *[40] * 24, 1, 39)
    everything = [job_id for jobs in members for job_id in jobs]
    queue.push(*everything)
    launched: list[UUID] = []
    ticks: list[float] = []
    begun_with = 0
    while queue.depths() != {"again": 0, "queue": 0, "processing": 0, "dead": 0}:
        started = time.monotonic()
        asked = asked_for(dagster)
        ticks.append(time.monotonic() - started)
        assert len(asked) <= sensors.RUNS_PER_TICK
        enqueue(dagster, asked)
        launched += ids(asked)
        assert len(in_queue(dagster)) <= fairness.QUEUED_RUNS
        for run in in_queue(dagster)[:ENDED_PER_TICK]:
            end(dagster, run)
        begun_with = begun_with or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert len(ticks) < 400, "the backlog does not shrink"

    assert sorted(launched) == sorted(everything), "an id was lost, or ran twice"
    order: dict[UUID, list[UUID]] = defaultdict(list)
    member_of = {job_id: number for number, jobs in enumerate(members) for job_id in jobs}
    for job_id in launched:
        order[member_of[job_id]].append(job_id)
    assert [order[number] for number in range(len(members))] == members
    assert launched.index(members[24][0]) < 2 * len(members), "the one id of a member waited for more than two of all"
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begun_with) / 1024 < 50
    assert max(ticks) < 20  # a hang; `python -m bench.backlog` measures


# --- Dagster's own queue -----------------------------------------------------------------------------


@pytest.fixture
def limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    """An instance with this project's run queue: four slots, two runs of a member at a time."""
    monkeypatch.setenv("QUEL_MAX_RUNS_PER_MEMBER", "2")
    (tmp_path / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\n"
        "run_coordinator:\n"
        "  module: quel_dagster.platform.run_queue\n"
        "  class: RunQueue\n"
        "  config: {max_concurrent_runs: 4}\n" + yaml.safe_dump(events_in_one_file(tmp_path))
    )
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


@pytest.fixture
def two_processes(tmp_path: Path) -> Iterator[DagsterInstance]:
    """An instance with this project's run queue and the places of two worker processes."""
    (tmp_path / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\n"
        "run_coordinator:\n"
        "  module: quel_dagster.platform.run_queue\n"
        "  class: RunQueue\n"
        "  config: {max_concurrent_runs: 200}\n" + yaml.safe_dump(events_in_one_file(tmp_path))
    )
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


def test_a_member_with_500_jobs_in_200_places_does_not_keep_others_waiting(
    two_processes: DagsterInstance, queue: JobQueue, worker: Mapping[str, str]
) -> None:
    instance = two_processes
    many, *others = jobs_of_members(worker["DATABASE_URL"], 500, 1, 1, 1, 1, 3)
    queue.push(*many)
    started: list[DagsterRun] = []

    def start_all() -> None:
        begun = set(dequeued(instance))
        for run in in_queue(instance):
            if ids([run])[0] in begun:
                end(instance, run, DagsterEventType.RUN_START)
                started.append(run)

    while len(in_queue(instance)) < fairness.QUEUED_RUNS_OF_ONE_MEMBER:
        enqueue(instance, asked_for(instance))
        start_all()
        if len(started) == 200:
            enqueue(instance, asked_for(instance))
    assert ids(started) == many[:200], "alone, a member has all places"

    queue.push(*[job_id for jobs in others for job_id in jobs])
    enqueue(instance, asked_for(instance))
    assert dequeued(instance) == [], "no place is free"
    for run in started[:6]:
        end(instance, run)
    first_of_each = [jobs[0] for jobs in others]
    assert dequeued(instance) == [many[200], *first_of_each], "members take turns"


def dequeued(instance: DagsterInstance, order: StartOrder | None = None) -> list[UUID]:
    """Return the runs that the daemon would launch now; `order` keeps its state between iterations."""
    with PromptRunQueueDaemon(interval_seconds=1) as daemon:
        daemon._start_order = order or StartOrder()
        runs = daemon._get_runs_to_dequeue(instance, instance.get_concurrency_config(), fixed_iteration_time=None)
    return ids(runs)


def test_paused_intake_starts_only_continued_runs(
    limited: DagsterInstance, queue: JobQueue, worker: Mapping[str, str]
) -> None:
    (first,), (second,) = jobs_of_members(worker["DATABASE_URL"], 1, 1)
    queue.push(first, second)
    enqueue(limited, asked_for(limited))
    assert dequeued(limited) == [first, second]

    pause_intake(queue.client, "upgrade", by="ana")
    assert dequeued(limited) == []
    (run,) = [run for run in limited.get_runs() if run.tags["quel/job_id"] == str(second)]
    limited.add_run_tags(run.run_id, {RETRY_NUMBER_TAG: "1"})
    assert dequeued(limited) == [second], "a job at work goes on"

    resume_intake(queue.client)
    assert sorted(dequeued(limited)) == sorted([first, second])


def test_intake_paused_by_gemini_one_new_run_starts_now_and_then(
    limited: DagsterInstance, queue: JobQueue, worker: Mapping[str, str]
) -> None:
    (first,), (second,), (third,) = jobs_of_members(worker["DATABASE_URL"], 1, 1, 1)
    queue.push(first, second)
    enqueue(limited, asked_for(limited))
    pause_intake(queue.client, "overloaded", by="host:1", pauser=Pauser.GEMINI)
    queue.push(third)
    assert asked_for(limited) == [], "the next probe waits in Dagster's queue already"
    assert dequeued(limited) == [first], "a probe"
    assert dequeued(limited) == [], "the next one in PROBE_JOB_SECONDS"
    assert 0 < queue.client.pttl(NEXT_PROBE) <= PROBE_JOB_SECONDS * 1000

    queue.client.delete(NEXT_PROBE)
    pause_intake(queue.client, "upgrade", by="ana")
    assert dequeued(limited) == [], "an operator's pause has no probes"
    resume_intake(queue.client)
    assert dequeued(limited) == [first]


def test_a_member_runs_no_more_than_its_limit_at_a_time(
    limited: DagsterInstance, queue: JobQueue, worker: Mapping[str, str]
) -> None:
    many, (one,) = jobs_of_members(worker["DATABASE_URL"], 30, 1)
    queue.push(*many, one)
    enqueue(limited, asked_for(limited))
    assert dequeued(limited) == [many[0], one, many[1]]


def test_one_daemon_counts_runs_that_begin_and_end_and_reads_each_once(
    limited: DagsterInstance, queue: JobQueue, worker: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    many, others = jobs_of_members(worker["DATABASE_URL"], 4, 4)
    queue.push(*many, *others)
    enqueue(limited, asked_for(limited))
    read: list[str] = []
    read_records = limited.get_run_records

    def count_records(filters: RunsFilter) -> Sequence[RunRecord]:
        records = read_records(filters)
        read.extend(record.dagster_run.run_id for record in records)
        return records

    by_job = {ids([run])[0]: run for run in in_queue(limited)}
    with PromptRunQueueDaemon(interval_seconds=1) as daemon:

        def launchable() -> list[UUID]:
            config = limited.get_concurrency_config()
            with monkeypatch.context() as patch:
                patch.setattr(limited, "get_run_records", count_records)
                return ids(daemon._get_runs_to_dequeue(limited, config, fixed_iteration_time=None))

        assert launchable() == [many[0], others[0], many[1], others[1]]
        end(limited, by_job[many[0]], DagsterEventType.RUN_START)
        end(limited, by_job[many[1]], DagsterEventType.RUN_START)
        assert launchable() == others[:2], "one member is at its limit"
        end(limited, by_job[many[0]])
        end(limited, by_job[others[0]], DagsterEventType.RUN_START)
        enqueue(limited, asked_for(limited))
        assert sorted(launchable()) == sorted([many[2], others[1]]), "an ended run frees its place"
    assert sorted(read) == sorted(by_job[job_id].run_id for job_id in (many[0], many[1], others[0]))


def test_ticks_read_each_live_run_once_until_it_has_its_member(
    dagster: DagsterInstance, queue: JobQueue, worker: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (some, others) = jobs_of_members(worker["DATABASE_URL"], 2, 1)
    queue.push(*some, *others)
    enqueue(dagster, asked_for(dagster))
    by_hand = DagsterRun(job_name="image_job", run_id=make_new_run_id(), status=DagsterRunStatus.STARTED)
    dagster.run_storage.add_run(by_hand)
    waiting, read = in_queue(dagster), list[str]()
    get_runs = dagster.get_runs

    def noted(filters: RunsFilter) -> Sequence[DagsterRun]:
        runs = get_runs(filters)
        read.extend(run.run_id for run in runs)
        return runs

    monkeypatch.setattr(dagster, "get_runs", noted)
    live_runs, bounds = LiveRuns(), Bounds.of(Settings.of_process())
    member, other = (run.tags[MEMBER_TAG] for run in waiting[:2])

    def load() -> Load:
        return live_runs.load(dagster, bounds)

    assert load() == Load(bounds.queued - 3, {member: 2, other: 1}, {member: 2, other: 1, "": 1})
    end(dagster, waiting[0], DagsterEventType.RUN_START)
    end(dagster, waiting[1])
    dagster.add_run_tags(by_hand.run_id, {MEMBER_TAG: other})
    assert load() == Load(bounds.queued - 1, {member: 1}, {member: 2, other: 1})
    assert load().live == {member: 2, other: 1}
    assert sorted(read) == sorted([by_hand.run_id, by_hand.run_id, *(run.run_id for run in waiting)])


def test_runs_that_wait_for_their_members_limit_leave_room_for_others(
    limited: DagsterInstance, queue: JobQueue, worker: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """F4: two members at their limit, and Dagster's queue as small as possible; a third member still gets in."""
    monkeypatch.setattr(fairness, "QUEUED_RUNS", 8)
    first, second, third = jobs_of_members(worker["DATABASE_URL"], 20, 20, 1)
    queue.push(*first, *second)
    for _ in range(4):
        enqueue(limited, asked_for(limited))
        for run in in_queue(limited):
            if ids([run]) == dequeued(limited)[:1]:
                end(limited, run, DagsterEventType.RUN_START)
    queue.push(*third)
    assert ids(asked_for(limited)) == third


def test_a_begun_job_continues_before_others_begin(
    limited: DagsterInstance, queue: JobQueue, worker: Mapping[str, str]
) -> None:
    """A worker that stops hands its jobs over; the sweep pushes those of one that died."""
    url = worker["DATABASE_URL"]
    (waiting,), (begun,) = jobs_of_members(url, 1)[0], jobs_of_members(url, 1, total_images=40)[0]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("update quel_production_jobs set job_status = 'processing' where job_id = %s", (begun,))
    queue.push(waiting, begun)
    enqueue(limited, asked_for(limited))
    assert dequeued(limited) == [begun, waiting]


def test_a_small_job_starts_before_a_large_one_until_that_has_waited(
    limited: DagsterInstance, queue: JobQueue, worker: Mapping[str, str]
) -> None:
    """F5, by Dagster's launch order."""
    url = worker["DATABASE_URL"]
    (large,), (small,), (later,) = (
        jobs_of_members(url, 1, total_images=40)[0],
        jobs_of_members(url, 1)[0],
        jobs_of_members(url, 1)[0],
    )
    now = 0.0
    order = StartOrder(lambda: now)
    queue.push(large, small)
    enqueue(limited, asked_for(limited))
    assert dequeued(limited, order) == [small, large]

    now = AGED
    queue.push(later)
    enqueue(limited, asked_for(limited))
    assert dequeued(limited, order) == [large, small, later]
    assert dequeued(limited) == [small, later, large], "a restarted daemon begins to count again"


def test_while_no_slot_is_free_a_large_job_grows_older(
    limited: DagsterInstance, queue: JobQueue, worker: Mapping[str, str]
) -> None:
    url = worker["DATABASE_URL"]
    (large,), (small,) = jobs_of_members(url, 1, total_images=40)[0], jobs_of_members(url, 1)[0]
    now = 0.0
    order = StartOrder(lambda: now)
    queue.push(large)
    enqueue(limited, asked_for(limited))
    assert dequeued(limited, order) == [large]
    queue.push(*(job_id for (job_id,) in jobs_of_members(url, 1, 1, 1, 1)))
    enqueue(limited, asked_for(limited))
    busy = [run for run in in_queue(limited) if ids([run]) != [large]]
    for run in busy:
        end(limited, run, DagsterEventType.RUN_START)
    now = AGED
    assert dequeued(limited, order) == []
    end(limited, busy[0])
    queue.push(small)
    enqueue(limited, asked_for(limited))
    assert dequeued(limited, order) == [large]
