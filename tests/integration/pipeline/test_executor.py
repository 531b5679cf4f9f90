"""The thread executor with test jobs: concurrent steps, failures, and the stop of one run among several."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from dagster import (
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    DynamicOut,
    DynamicOutput,
    Failure,
    JobDefinition,
    OpExecutionContext,
    RetryPolicy,
    RetryRequested,
    execute_job,
    job,
    op,
    reconstructable,
)

from quel_dagster.platform.executor import thread_executor
from quel_dagster.platform.instance import QuelInstance
from quel_dagster.platform.stops import stops

HANG_SECONDS = 60.0
UNITS = 4
#: run → what its steps wait for; set by the tests
_gates: dict[str, threading.Event] = {}
_open = threading.Semaphore(0)
_at_once = 0
_most_at_once = 0
_lock = threading.Lock()


@op(out=DynamicOut(int))
def count() -> Iterator[DynamicOutput[int]]:
    for number in range(UNITS):
        yield DynamicOutput(number, str(number))


@op
def wait(context: OpExecutionContext, number: int) -> int:
    global _at_once, _most_at_once  # noqa: PLW0603  seen by the tests of this file
    with _lock:
        _at_once += 1
        _most_at_once = max(_most_at_once, _at_once)
    context.log.info(f"line of {number}")
    _open.release()
    assert _gates[context.run_id].wait(HANG_SECONDS)
    with _lock:
        _at_once -= 1
    return number


@op
def total(numbers: list[int]) -> int:
    return sum(numbers)


@job(executor_def=thread_executor(2))
def waiting_job() -> None:
    total(count().map(wait).collect())


@op
def fails() -> None:
    raise Failure("in words", allow_retries=False)


@op
def succeeds() -> int:
    return 1


@op
def follows(_number: int) -> None: ...


@job(executor_def=thread_executor(2))
def failing_job() -> None:
    fails()
    follows(succeeds())


@op(retry_policy=RetryPolicy(max_retries=1, delay=0.1))
def second_time(context: OpExecutionContext) -> None:
    if context.retry_number == 0:
        raise RetryRequested(max_retries=1, seconds_to_wait=0.1)


@job(executor_def=thread_executor(2))
def retrying_job() -> None:
    second_time()


def waiting() -> JobDefinition:
    return waiting_job


def failing() -> JobDefinition:
    return failing_job


def retrying() -> JobDefinition:
    return retrying_job


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    """Our class of instance: under Dagster's own, runs of one process wait for each other in logging for ever."""
    home = tmp_path_factory.mktemp("dagster")
    (home / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\ninstance_class: {module: quel_dagster.platform.instance, class: QuelInstance}\n"
    )
    with DagsterInstance.from_config(str(home)) as instance:
        assert isinstance(instance, QuelInstance)
        yield instance


@pytest.fixture
def gates() -> Iterator[Callable[[DagsterInstance], tuple[str, threading.Event]]]:
    """Makes a run id and the gate of its steps."""

    def make(instance: DagsterInstance) -> tuple[str, threading.Event]:
        run = instance.create_run_for_job(waiting_job)
        _gates[run.run_id] = threading.Event()
        return run.run_id, _gates[run.run_id]

    yield make
    for gate in _gates.values():
        gate.set()
    _gates.clear()


def execute(instance: DagsterInstance, run_id: str) -> bool:
    from dagster._core.execution.api import execute_run  # noqa: PLC0415  there is no public call for a run that exists

    run = instance.get_run_by_id(run_id)
    assert run is not None
    return execute_run(reconstructable(waiting), run, instance).success


def events(instance: DagsterInstance, run_id: str, kind: DagsterEventType) -> list[str | None]:
    return [entry.step_key for entry in instance.all_logs(run_id, of_type=kind)]


def test_many_runs_in_one_process_wait_at_once_and_all_end(
    instance: DagsterInstance, gates: Callable[[DagsterInstance], tuple[str, threading.Event]]
) -> None:
    global _most_at_once  # noqa: PLW0603
    _most_at_once = 0
    runs = [gates(instance) for _ in range(3)]
    with ThreadPoolExecutor(len(runs)) as threads:
        results = [threads.submit(execute, instance, run_id) for run_id, _ in runs]
        for _ in range(2 * len(runs)):
            assert _open.acquire(timeout=HANG_SECONDS)
        assert _most_at_once == 2 * len(runs), "two steps of each run are open"
        for _, gate in runs:
            gate.set()
        assert [result.result(HANG_SECONDS) for result in results] == [True] * len(runs)
    for run_id, _ in runs:
        lines = [e.user_message for e in instance.all_logs(run_id) if e.user_message.startswith("line of")]
        steps = [e.step_key for e in instance.all_logs(run_id) if e.user_message.startswith("line of")]
        assert sorted(lines) == [f"line of {number}" for number in range(UNITS)]
        assert [f"wait[{line[-1]}]" for line in lines] == steps, "a line stands on its own step"
    while _open.acquire(blocking=False):
        pass


def test_a_terminated_run_begins_no_step_and_others_continue(
    instance: DagsterInstance, gates: Callable[[DagsterInstance], tuple[str, threading.Event]]
) -> None:
    (stopped, gate), (other, other_gate) = gates(instance), gates(instance)
    with ThreadPoolExecutor(2) as threads:
        results = [threads.submit(execute, instance, run_id) for run_id in (stopped, other)]
        for _ in range(4):
            assert _open.acquire(timeout=HANG_SECONDS)
        run = instance.get_run_by_id(stopped)
        assert run is not None
        instance.report_run_canceling(run)
        assert stops.terminate(stopped)
        gate.set()
        assert results[0].result(HANG_SECONDS) is False
        other_gate.set()
        assert results[1].result(HANG_SECONDS) is True
    ended = instance.get_run_by_id(stopped)
    assert ended is not None
    assert ended.status is DagsterRunStatus.CANCELED
    assert len(events(instance, stopped, DagsterEventType.STEP_START)) == 1 + 2, "count, and two of four units"
    assert len(events(instance, other, DagsterEventType.STEP_START)) == 1 + UNITS + 1
    assert not stops.terminate(stopped), "a run that has ended is no run of this process"
    while _open.acquire(blocking=False):
        pass


def test_a_failed_step_leaves_the_others_to_end(instance: DagsterInstance) -> None:
    with execute_job(reconstructable(failing), instance) as result:
        assert not result.success
        assert {event.step_key for event in result.filter_events(lambda event: event.is_step_success)} == {
            "succeeds",
            "follows",
        }
        assert [event.step_key for event in result.filter_events(lambda event: event.is_step_failure)] == ["fails"]


def test_an_error_that_is_to_be_raised_is_raised_when_no_step_is_open(instance: DagsterInstance) -> None:
    with pytest.raises(Failure, match="in words"):
        execute_job(reconstructable(failing), instance, raise_on_error=True)
    assert not [thread for thread in threading.enumerate() if thread.name.endswith((" fails", " succeeds"))]


def test_a_step_that_asks_for_another_try_gets_it(instance: DagsterInstance) -> None:
    with execute_job(reconstructable(retrying), instance) as result:
        assert result.success
        assert len(result.filter_events(lambda event: event.is_step_restarted)) == 1
