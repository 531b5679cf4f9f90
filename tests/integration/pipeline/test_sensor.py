"""The contract of the queue sensor: what it asks Dagster for, and when an entry of the queue goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
import redis
from dagster import DagsterInstance, DagsterRun, RunRequest, SensorResult, SkipReason, build_sensor_context
from sqlalchemy.exc import OperationalError

from quel_dagster.adapters.database.records import NewJob
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.queue import QUEUE, JobQueue
from quel_dagster.definitions import defs
from quel_dagster.errors import QuelError, SettingsError
from quel_dagster.pipeline import sensors
from quel_dagster.pipeline.resources import QueueResource, StudioResource
from quel_dagster.pipeline.sensors import jobs_queue_sensor
from quel_dagster.studio.studio import Studio
from tests.integration.conftest import PRICE

pytestmark = pytest.mark.usefixtures("worker")


@pytest.fixture(autouse=True)
def _short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "WAIT_SECONDS", 0.05)


@pytest.fixture
def queue(redis_url: str) -> Iterator[JobQueue]:
    queue = JobQueue(redis_url)
    yield queue
    queue.close()


@pytest.fixture
def jobs(worker: Mapping[str, str]) -> list[UUID]:
    """Three jobs in the tables."""

    async def insert() -> list[UUID]:
        database = Database(worker["DATABASE_URL"])
        member_id = await database.insert_member(email=f"{uuid4().hex}@example.org", name="Mina", credit=100)
        made = [
            await database.insert_job(
                NewJob(job_type="simple_general", total_images=1, input_data={}, path="beauty", member_id=member_id),
                price=PRICE,
            )
            for _ in range(3)
        ]
        await database.aclose()
        return [job_id for job_id, _ in made]

    return asyncio.run(insert())


def tick(instance: DagsterInstance, studio: StudioResource | None = None) -> SensorResult | SkipReason:
    """One evaluation of the sensor."""
    resources = {"queue": QueueResource(), "studio": studio or StudioResource()}
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
    assert queue.depths() == {"queue": 0, "processing": 3, "dead": 0}


def test_an_entry_goes_away_once_its_own_run_exists(
    instance: DagsterInstance, queue: JobQueue, jobs: list[UUID]
) -> None:
    queue.push(*jobs)
    asked = requests(tick(instance))
    launch(instance, asked[1])

    again = requests(tick(instance))

    assert [request.run_key for request in again] == [asked[0].run_key, asked[2].run_key]
    assert [delivery.job_id for delivery in queue.deliveries()] == [jobs[0], jobs[2]]
    launch(instance, asked[0])
    launch(instance, asked[2])
    assert sentence(tick(instance)) == "No job id is waiting in jobs:queue."
    assert queue.depths() == {"queue": 0, "processing": 0, "dead": 0}


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
    assert len(requests(tick(instance))) == 1, "the second delivery was taken away without a run"


def test_ids_that_wait_already_are_not_held_up_by_an_empty_queue(
    instance: DagsterInstance, queue: JobQueue, jobs: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.push(jobs[0])
    tick(instance)
    monkeypatch.setattr(sensors, "WAIT_SECONDS", 3600.0)
    assert len(requests(tick(instance))) == 1


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
    assert queue.depths() == {"queue": 0, "processing": 0, "dead": 0}


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
    (letter,) = queue.dead()
    assert (letter["reason"], letter["length"]) == ("not a UUID", len(raw))
    assert [delivery.job_id for delivery in queue.deliveries()] == [jobs[0]]


def test_bad_entries_alone_are_skipped_with_what_became_of_them(instance: DagsterInstance, queue: JobQueue) -> None:
    queue.push("nonsense")
    said = sentence(tick(instance))
    assert "jobs:dead: not a UUID" in said
    assert "8 bytes, sha256" in said
    assert "nonsense" not in said


def test_an_id_without_a_row_is_looked_for_three_times(
    instance: DagsterInstance, queue: JobQueue, jobs: list[UUID]
) -> None:
    missing = uuid4()
    queue.push(missing, jobs[0])

    first = tick(instance)
    assert [request.tags["quel/job_id"] for request in requests(first)] == [str(jobs[0])]
    launch(instance, requests(first)[0])
    assert sentence(tick(instance)) == f"{missing} has no row yet (look 2 of 3)"
    assert queue.depths()["dead"] == 0
    assert "no such row" in sentence(tick(instance))

    assert queue.depths() == {"queue": 0, "processing": 0, "dead": 1}
    (letter,) = queue.dead()
    assert letter["reason"] == "no such row in quel_production_jobs"
    assert letter["value"] == str(missing)


def test_a_row_that_comes_a_moment_later_is_served_and_its_misses_forgotten(
    instance: DagsterInstance, queue: JobQueue, jobs: list[UUID], worker: Mapping[str, str]
) -> None:
    late = uuid4()
    queue.push(late)
    tick(instance)
    tick(instance)

    async def insert_late() -> None:
        database = Database(worker["DATABASE_URL"])
        async with database._engine.connect() as connection:
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
    assert queue.depths() == {"queue": 0, "processing": 0, "dead": 0}
    queue.push(uuid4())
    assert "look 1 of 3" in sentence(tick(instance))


def test_a_redis_that_is_away_is_one_readable_line(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://somebody:geheim@127.0.0.1:1/0")
    with pytest.raises(QuelError) as caught:
        tick(instance)
    assert str(caught.value) == "Redis does not answer (ConnectionError); check REDIS_URL and that the server runs."
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_missing_redis_is_one_readable_line(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL")
    with pytest.raises(SettingsError, match="REDIS_URL is not set"):
        tick(instance)


class _WithoutDatabase(StudioResource):
    """A studio whose database does not answer."""

    def open_studio(self) -> Studio:
        studio = super().open_studio()
        nowhere = Database("postgresql://u:geheim@127.0.0.1:1/d", retry_seconds=0.1)
        studio.parts = replace(studio.parts, database=nowhere)
        return studio


def test_entries_stay_when_the_database_is_away(instance: DagsterInstance, queue: JobQueue, jobs: list[UUID]) -> None:
    queue.push(jobs[0])
    with pytest.raises(OperationalError) as caught:
        tick(instance, _WithoutDatabase())
    assert "geheim" not in str(caught.value)
    assert queue.depths() == {"queue": 1, "processing": 0, "dead": 0}
    queue.claim(wait_seconds=0, limit=1)
    with pytest.raises(OperationalError):
        tick(instance, _WithoutDatabase())
    assert queue.depths() == {"queue": 0, "processing": 1, "dead": 0}


def test_its_definition() -> None:
    definition = defs.get_repository_def().get_sensor_def("jobs_queue_sensor")
    assert definition.default_status.value == "RUNNING"
    assert definition.minimum_interval_seconds == 1
    assert definition.job_name == "image_job"
