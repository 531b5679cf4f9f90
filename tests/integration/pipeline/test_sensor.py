"""The contract of the queue sensor: its run requests, and when an entry leaves the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TypeVar
from uuid import UUID, uuid4

import psycopg
import pytest
import redis
from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    RunRequest,
    RunsFilter,
    SensorResult,
    SkipReason,
    build_sensor_context,
)
from sqlalchemy.exc import OperationalError

from quel_dagster.adapters.database.records import JobDescription, NewJob
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.intake import Pauser, pause_intake, resume_intake
from quel_dagster.adapters.queue import QUEUE, JobQueue
from quel_dagster.definitions import defs
from quel_dagster.errors import QuelError, SettingsError
from quel_dagster.pipeline import fairness, sensors
from quel_dagster.pipeline.resources import DatabaseResource, QueueResource
from quel_dagster.pipeline.sensors import jobs_queue_sensor
from tests.integration.conftest import PRICE, claim

T = TypeVar("T")

pytestmark = pytest.mark.usefixtures("worker")


@pytest.fixture(autouse=True)
def _short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "_lanes", fairness.Lanes())
    monkeypatch.setattr(sensors, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr(sensors, "APART_SECONDS", 0.0)


@pytest.fixture
def jobs(worker: Mapping[str, str]) -> list[UUID]:
    """Three jobs in the tables."""

    async def insert() -> list[UUID]:
        database = Database(worker["DATABASE_URL"])
        member_id = await database.web_app.insert_member(email=f"{uuid4().hex}@example.org", name="Mina", credit=100)
        made = [
            await database.web_app.insert_job(
                NewJob(job_type="simple_general", total_images=1, input_data={}, path="beauty", member_id=member_id),
                price=PRICE,
            )
            for _ in range(3)
        ]
        await database.aclose()
        return [job_id for job_id, _ in made]

    return asyncio.run(insert())


def tick(instance: DagsterInstance, database: DatabaseResource | None = None) -> SensorResult | SkipReason:
    """One evaluation of the sensor."""
    resources = {"queue": QueueResource(), "database": database or DatabaseResource()}
    with build_sensor_context(instance=instance, resources=resources) as context:
        answer = jobs_queue_sensor(context)
    assert isinstance(answer, SensorResult | SkipReason)
    return answer


def requests(answer: SensorResult | SkipReason) -> list[RunRequest]:
    assert isinstance(answer, SensorResult), answer
    return list(answer.run_requests or [])


def launch(instance: DagsterInstance, request: RunRequest) -> DagsterRun:
    """Create the run that was asked for, as the sensor daemon does."""
    return instance.create_run_for_job(
        defs.resolve_job_def("image_job"),
        run_config=request.run_config,
        tags={**request.tags, "dagster/run_key": str(request.run_key)},
    )


def sentence(answer: SensorResult | SkipReason) -> str:
    assert isinstance(answer, SkipReason), answer
    return str(answer.skip_message)


def test_a_quiet_queue_is_skipped_with_a_reason(instance: DagsterInstance) -> None:
    assert sentence(tick(instance)) == "No job id is waiting in jobs:queue."


def test_intake_paused_no_run_is_asked_for_and_nothing_is_claimed(
    instance: DagsterInstance, queue: JobQueue, jobs: list[UUID]
) -> None:
    queue.push(jobs[0])
    pause_intake(queue.client, "the store is moved", by="ana")

    assert sentence(tick(instance)).endswith("by ana: the store is moved")
    assert queue.depths() == {"again": 0, "queue": 1, "processing": 0, "dead": 0}

    resume_intake(queue.client)
    assert len(requests(tick(instance))) == 1


def test_intake_paused_while_a_tick_waits_nothing_is_claimed(
    instance: DagsterInstance, queue: JobQueue, jobs: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(self: JobQueue, seconds: float, **_: object) -> bool:
        if seconds:
            pause_intake(self.client, "the store is moved", by="ana")
            self.push(jobs[0])
        return seconds > 0

    monkeypatch.setattr(JobQueue, "wait", wait)
    tick(instance)
    assert queue.depths() == {"again": 0, "queue": 1, "processing": 0, "dead": 0}
    resume_intake(queue.client)


def test_intake_paused_by_gemini_one_id_becomes_a_run(
    instance: DagsterInstance, queue: JobQueue, jobs: list[UUID]
) -> None:
    """The probe. Otherwise pictures that Gemini never makes stop the installation for hours."""
    for run in instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.QUEUED])):  # of other tests
        instance.delete_run(run.run_id)
    queue.push(*jobs[:3])
    pause_intake(queue.client, "overloaded", by="host:1", pauser=Pauser.GEMINI)
    assert len(requests(tick(instance))) == 1
    assert queue.depths()["queue"] == 2
    resume_intake(queue.client, Pauser.GEMINI)


def test_intake_paused_by_gemini_the_reason_is_shown_without_ids(instance: DagsterInstance, queue: JobQueue) -> None:
    pause_intake(queue.client, "overloaded", by="host:1", pauser=Pauser.GEMINI)
    assert sentence(tick(instance)).endswith("by host:1: overloaded")
    resume_intake(queue.client, Pauser.GEMINI)


def test_an_id_becomes_one_run_request(instance: DagsterInstance, queue: JobQueue, jobs: list[UUID]) -> None:
    queue.push(jobs[0])

    (request,) = requests(tick(instance))

    (delivery,) = queue.deliveries()
    assert request.run_key == delivery.run_key == f"{jobs[0]}:{delivery.number}"
    assert request.run_config == {"ops": {"make_images": {"config": {"job_id": str(jobs[0])}}}}
    assert request.tags["quel/job_id"] == str(jobs[0])
    assert request.tags["quel/category"] == "beauty"
    assert request.tags["quel/job_type"] == "simple_general"
    assert UUID(request.tags["quel/production_id"])
    assert UUID(request.tags["quel/member_id"])
    assert "quel/org_id" not in request.tags
    assert not any("canary" in value for value in request.tags.values())


def test_a_tick_reads_a_row_once_and_looks_again_for_one_that_is_missing(
    instance: DagsterInstance, queue: JobQueue, jobs: list[UUID]
) -> None:
    asked: list[list[UUID]] = []

    class Counted(DatabaseResource):
        def describe_jobs(self, job_ids: list[UUID]) -> dict[UUID, JobDescription]:
            asked.append(job_ids)
            return super().describe_jobs(job_ids)

    unknown = uuid4()
    queue.push(jobs[0], unknown)
    (request,) = requests(tick(instance, Counted()))
    assert request.tags["quel/job_id"] == str(jobs[0])
    assert asked == [[jobs[0], unknown], [unknown]]


def test_the_run_config_is_one_that_the_job_takes(instance: DagsterInstance, queue: JobQueue, jobs: list[UUID]) -> None:
    queue.push(jobs[0])
    (request,) = requests(tick(instance))
    run = launch(instance, request)
    assert run.job_name == "image_job"


def test_a_burst_is_one_result_oldest_first(instance: DagsterInstance, queue: JobQueue, jobs: list[UUID]) -> None:
    queue.push(*jobs)
    asked = requests(tick(instance))
    assert [request.tags["quel/job_id"] for request in asked] == [str(job_id) for job_id in jobs]
    assert len({request.run_key for request in asked}) == 3


def test_a_tick_cut_off_before_its_runs_exist_asks_for_the_same_runs(
    instance: DagsterInstance, queue: JobQueue, jobs: list[UUID]
) -> None:
    queue.push(*jobs)
    first = requests(tick(instance))
    second = requests(tick(instance))
    assert [request.run_key for request in second] == [request.run_key for request in first]
    assert queue.depths() == {"again": 0, "queue": 0, "processing": 3, "dead": 0}


def test_entry_is_removed_once_its_own_run_exists(instance: DagsterInstance, queue: JobQueue, jobs: list[UUID]) -> None:
    queue.push(*jobs)
    asked = requests(tick(instance))
    launch(instance, asked[1])

    again = requests(tick(instance))

    assert [request.run_key for request in again] == [asked[0].run_key, asked[2].run_key]
    assert [delivery.job_id for delivery in queue.deliveries()] == [jobs[0], jobs[2]]
    launch(instance, asked[0])
    launch(instance, asked[2])
    assert sentence(tick(instance)) == "No job id is waiting in jobs:queue."
    assert queue.depths() == {"again": 0, "queue": 0, "processing": 0, "dead": 0}


def test_a_run_of_an_earlier_delivery_does_not_stand_for_a_later_one(
    instance: DagsterInstance, queue: JobQueue, jobs: list[UUID]
) -> None:
    queue.push(jobs[0])
    (first,) = requests(tick(instance))
    launch(instance, first)
    tick(instance)

    queue.push(jobs[0])
    (second,) = requests(tick(instance))

    assert second.run_key != first.run_key
    assert len(requests(tick(instance))) == 1, "the second delivery was removed without a run"


def test_ids_that_wait_already_are_not_held_up_by_an_empty_queue(
    instance: DagsterInstance, queue: JobQueue, jobs: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.push(jobs[0])
    tick(instance)
    monkeypatch.setattr(sensors, "WAIT_SECONDS", 3600.0)
    assert len(requests(tick(instance))) == 1


def test_ticks_are_a_second_apart_unless_one_waited_for_its_id(
    instance: DagsterInstance, queue: JobQueue, jobs: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon starts a tick as soon as the last one has ended: a backlog or a pause must not keep it busy."""
    pauses: list[float] = []
    monkeypatch.setattr(sensors, "_pace", sensors._Pace(pauses.append))
    monkeypatch.setattr(sensors, "APART_SECONDS", 3600.0)
    wait = JobQueue.wait

    def push_meanwhile(self: JobQueue, seconds: float, **more: Collection[bytes]) -> bool:
        if seconds:
            self.push(jobs[0])
        return wait(self, 0, **more)

    def next_pause() -> float:
        pauses.clear()
        tick(instance)
        return pauses[0]

    queue.push(jobs[1])
    assert next_pause() == 0
    assert next_pause() > 3000, "the tick before it found an id"
    launch(instance, requests(tick(instance))[0])
    monkeypatch.setattr(JobQueue, "wait", push_meanwhile)
    assert next_pause() > 3000
    assert next_pause() == 0, "the tick before it waited for its id"


def test_a_tick_that_claimed_all_it_may_is_followed_at_once(
    instance: DagsterInstance, queue: JobQueue, jobs: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(sensors, "_pace", sensors._Pace(pauses.append))
    monkeypatch.setattr(sensors, "APART_SECONDS", 3600.0)
    monkeypatch.setattr(sensors, "RUNS_PER_TICK", 2)
    queue.push(*jobs[:3])
    for request in requests(tick(instance)):
        launch(instance, request)
    assert len(requests(tick(instance))) == 1
    tick(instance)
    assert [pause > 3000 for pause in pauses] == [False, False, True], "it claimed two, then one, then none"


def test_new_ids_are_claimed_while_others_wait_for_their_run(
    instance: DagsterInstance, queue: JobQueue, jobs: list[UUID]
) -> None:
    queue.push(jobs[0])
    tick(instance)
    queue.push(jobs[1])
    assert len(requests(tick(instance))) == 2


def test_a_tick_asks_for_no_more_runs_than_its_limit_and_leaves_the_rest_in_redis(
    instance: DagsterInstance, queue: JobQueue, jobs: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "RUNS_PER_TICK", 2)
    queue.push(*jobs)
    asked = requests(tick(instance))
    assert len(asked) == 2
    assert len(requests(tick(instance))) == 2
    assert queue.depths()["queue"] == 1
    for request in asked:
        launch(instance, request)
    (third,) = requests(tick(instance))
    assert third.tags["quel/job_id"] == str(jobs[2])


def test_the_same_id_pushed_ten_times_is_one_request(
    instance: DagsterInstance, queue: JobQueue, jobs: list[UUID]
) -> None:
    queue.push(*[jobs[0]] * 10)
    (request,) = requests(tick(instance))
    launch(instance, request)
    assert sentence(tick(instance)) == "No job id is waiting in jobs:queue."
    assert queue.depths() == {"again": 0, "queue": 0, "processing": 0, "dead": 0}


def test_an_id_in_capitals_is_the_same_job(instance: DagsterInstance, queue: JobQueue, jobs: list[UUID]) -> None:
    queue.push(str(jobs[0]).upper())
    (request,) = requests(tick(instance))
    assert request.tags["quel/job_id"] == str(jobs[0])
    launch(instance, request)
    tick(instance)
    assert queue.depths()["processing"] == 0


@pytest.mark.parametrize("raw", [b"", b"nonsense", b"\x00\xff", "작업".encode(), b"x" * 10_000_000])
def test_what_is_no_uuid_goes_to_the_dead_letters_and_the_queue_moves_on(
    instance: DagsterInstance, queue: JobQueue, jobs: list[UUID], worker: Mapping[str, str], raw: bytes
) -> None:
    with redis.Redis.from_url(worker["REDIS_URL"]) as client:
        client.lpush(QUEUE, raw)
    queue.push(jobs[0])

    (request,) = requests(tick(instance))

    assert request.tags["quel/job_id"] == str(jobs[0])
    (letter,) = queue.letters()
    assert (letter.reason, letter.length) == ("not a UUID", len(raw))
    assert [delivery.job_id for delivery in queue.deliveries()] == [jobs[0]]


def test_only_bad_entries_are_skipped_with_reasons(instance: DagsterInstance, queue: JobQueue) -> None:
    queue.push("nonsense")
    said = sentence(tick(instance))
    assert "jobs:dead: not a UUID" in said
    assert "8 bytes, sha256" in said
    assert "nonsense" not in said


def test_an_id_without_a_row_is_checked_three_times(
    instance: DagsterInstance, queue: JobQueue, jobs: list[UUID]
) -> None:
    missing = uuid4()
    queue.push(missing, jobs[0])

    first = tick(instance)
    assert [request.tags["quel/job_id"] for request in requests(first)] == [str(jobs[0])]
    launch(instance, requests(first)[0])
    assert sentence(tick(instance)) == f"{missing} has no row yet (check 2 of 3)"
    assert queue.depths()["dead"] == 0
    assert "no such row" in sentence(tick(instance))

    assert queue.depths() == {"again": 0, "queue": 0, "processing": 0, "dead": 1}
    (letter,) = queue.letters()
    assert letter.reason == "no such row in quel_production_jobs"
    assert letter.value == str(missing)


def test_a_row_that_comes_a_moment_later_is_served_and_its_misses_forgotten(
    instance: DagsterInstance, queue: JobQueue, jobs: list[UUID], worker: Mapping[str, str]
) -> None:
    late = uuid4()
    queue.push(late)
    tick(instance)
    tick(instance)

    async def insert_late() -> None:
        database = Database(worker["DATABASE_URL"])
        async with database.engine.connect() as connection:
            await connection.exec_driver_sql(
                "insert into quel_production_jobs (job_id, production_id, job_type, batch_index, total_images,"
                " job_input_data) select %s, production_id, job_type, batch_index, 1, '{}' from quel_production_jobs"
                " where job_id = %s",
                (late, jobs[0]),
            )
        await database.aclose()

    asyncio.run(insert_late())
    (request,) = requests(tick(instance))
    launch(instance, request)
    tick(instance)
    assert queue.depths() == {"again": 0, "queue": 0, "processing": 0, "dead": 0}
    queue.push(uuid4())
    assert "check 1 of 3" in sentence(tick(instance))


def test_unreachable_redis_is_one_readable_line(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://user:geheim@127.0.0.1:1/0")
    with pytest.raises(QuelError) as caught:
        tick(instance)
    assert str(caught.value) == "Redis does not answer (ConnectionError); check REDIS_URL and that the server runs."
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_missing_redis_is_one_readable_line(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL")
    with pytest.raises(SettingsError, match="REDIS_URL is not set"):
        tick(instance)


class _WithoutDatabase(DatabaseResource):
    """A database that does not answer."""

    def run(self, work: Callable[[Database], Awaitable[T]]) -> T:
        nowhere = Database("postgresql://u:geheim@127.0.0.1:1/d", retry_seconds=0.1)
        return asyncio.run(_awaited(work(nowhere)))


async def _awaited(work: Awaitable[T]) -> T:
    return await work


def test_entries_stay_while_the_database_is_unreachable(
    instance: DagsterInstance, queue: JobQueue, jobs: list[UUID]
) -> None:
    queue.push(jobs[0])
    with pytest.raises(OperationalError) as caught:
        tick(instance, _WithoutDatabase())
    assert "geheim" not in str(caught.value)
    assert queue.depths() == {"again": 0, "queue": 1, "processing": 0, "dead": 0}
    claim(queue, 1)
    with pytest.raises(OperationalError):
        tick(instance, _WithoutDatabase())
    assert queue.depths() == {"again": 0, "queue": 0, "processing": 1, "dead": 0}


# --- kinds of the older worker, and what this project pushes again -----------------------------------


def foreign_job(worker: Mapping[str, str], path: str = "multiview") -> UUID:
    """A row of the older worker's kind."""

    async def insert() -> UUID:
        database = Database(worker["DATABASE_URL"])
        new = NewJob(job_type="simple_general", total_images=1, input_data={"sourceAttachId": 7}, path=path)
        job_id, _ = await database.web_app.insert_job(new, price=PRICE)
        await database.aclose()
        return job_id

    return asyncio.run(insert())


def test_foreign_kind_without_the_older_worker_is_a_dead_letter_that_names_it(
    instance: DagsterInstance, queue: JobQueue, jobs: list[UUID], worker: Mapping[str, str]
) -> None:
    foreign = foreign_job(worker)
    queue.push(foreign, jobs[0])

    (request,) = requests(tick(instance))

    assert request.tags["quel/job_id"] == str(jobs[0])
    (letter,) = queue.letters()
    assert letter.job_id == foreign
    assert "multiview" in letter.reason


def test_foreign_kinds_beside_the_older_worker_stay_in_order_and_block_nothing(
    instance: DagsterInstance,
    queue: JobQueue,
    jobs: list[UUID],
    worker: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QUEL_OLDER_WORKER", "true")
    monkeypatch.setattr(sensors, "LOOK_AHEAD", 2)
    foreign = [foreign_job(worker, path) for path in ("multiview", "landing", "multiview")]
    queue.push(*foreign[:2], jobs[0], foreign[2], jobs[1])

    tick(instance)  # foreign ids that are known widen the look ahead
    asked = requests(tick(instance))
    for request in asked:
        launch(instance, request)
    asked += requests(tick(instance))

    assert [request.tags["quel/job_id"] for request in asked] == [str(job_id) for job_id in jobs[:2]]
    assert queue.peek(9) == [str(job_id).encode() for job_id in foreign]
    assert queue.letters() == []
    launch(instance, asked[-1])
    assert sentence(tick(instance)) == "3 ids in jobs:queue are left for the older worker."


def test_foreign_kind_with_a_late_row_stays_for_the_older_worker(
    instance: DagsterInstance, queue: JobQueue, worker: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUEL_OLDER_WORKER", "true")
    late = uuid4()
    queue.push(late)
    tick(instance)
    assert queue.depths() == {"again": 0, "queue": 1, "processing": 0, "dead": 0}
    foreign = foreign_job(worker)
    with psycopg.connect(worker["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("update quel_production_jobs set job_id = %s where job_id = %s", (late, foreign))
    tick(instance)
    assert queue.depths() == {"again": 0, "queue": 1, "processing": 0, "dead": 0}


def test_id_without_a_row_beside_the_older_worker_is_dead_in_the_end(
    instance: DagsterInstance, queue: JobQueue, worker: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUEL_OLDER_WORKER", "true")
    monkeypatch.setattr(fairness, "ROW_SECONDS", 0.0)
    queue.push(uuid4())
    for _ in range(3):
        tick(instance)
    (letter,) = queue.letters()
    assert letter.reason == "no such row in quel_production_jobs"


def test_ids_pushed_again_come_first(
    instance: DagsterInstance, queue: JobQueue, jobs: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "RUNS_PER_TICK", 2)
    queue.push(jobs[0], jobs[1])
    queue.push_again(jobs[2])
    asked = requests(tick(instance))
    assert [request.tags["quel/job_id"] for request in asked] == [str(jobs[2]), str(jobs[0])]


def test_foreign_kind_pushed_again_is_a_dead_letter_also_beside_the_older_worker(
    instance: DagsterInstance, queue: JobQueue, worker: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older worker never sees the entries of `jobs:again`."""
    monkeypatch.setenv("QUEL_OLDER_WORKER", "true")
    foreign = foreign_job(worker)
    queue.push(foreign)
    queue.push_again(foreign)
    tick(instance)
    assert queue.depths() == {"again": 0, "queue": 1, "processing": 0, "dead": 1}


def test_tick_needs_neither_gemini_nor_the_store(
    instance: DagsterInstance, queue: JobQueue, jobs: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GEMINI_API_KEY", "GEMINI_BASE_URL", "STORAGE_URL"):
        monkeypatch.delenv(name)
    queue.push(jobs[0])
    assert len(requests(tick(instance))) == 1


def test_its_definition() -> None:
    definition = defs.get_repository_def().get_sensor_def("jobs_queue_sensor")
    assert definition.default_status.value == "RUNNING"
    assert definition.minimum_interval_seconds == 1
    assert definition.job_name == "image_job"
