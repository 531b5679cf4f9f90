"""The executor of runs: Dagster's own step sequence, on one thread for every open step.

Responsibilities: which steps are open, the events of all of them in one stream, the stop of a run.
Not here: retries of steps beyond what Dagster's plan asks for, and capture of stdout, which belongs to the process.

A step spends its time waiting for the engine's event loop, so a thread is enough; docs/decisions/executor.md.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from typing import TypeAlias

from dagster import (
    DagsterEvent,
    DagsterRunStatus,
    Executor,
    ExecutorDefinition,
    Field,
    InitExecutorContext,
    Int,
    Noneable,
    executor,
)

from quel_dagster.platform.failures import PlainFailureError, RunStoppedError, run_continues
from quel_dagster.platform.internals import (
    EngineEventData,
    ExecuteRunWithPlanIterable,
    ExecutionPlan,
    InstanceConcurrencyContext,
    PlanExecutionContext,
    PlanExecutionContextManager,
    PlanOrchestrationContext,
    RetryMode,
    StepExecutionContext,
    dagster_event_sequence_for_step,
    pop_captured_interrupt,
)
from quel_dagster.platform.stops import stops

#: Seconds between two checks of Dagster's interrupt flag, only on the main thread, where signals set it.
INTERRUPT_POLL_SECONDS = 0.2

#: step key and event; an exception ended the step's thread, None is its normal end. A bare None only wakes the run.
_News: TypeAlias = "tuple[str, DagsterEvent | BaseException | None] | None"


class ThreadExecutor(Executor):
    """Runs up to `max_concurrent` steps of a run at a time, each on a thread of its own."""

    def __init__(self, max_concurrent: int | None) -> None:
        self._max_concurrent = max_concurrent

    @property
    def retries(self) -> RetryMode:
        return RetryMode.ENABLED

    def execute(self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan) -> Iterator[DagsterEvent]:
        pid = os.getpid()
        yield DagsterEvent.engine_event(
            plan_context,
            f"Executing steps on threads of process {pid}",
            EngineEventData.in_process(pid, execution_plan.step_keys_to_execute),
        )
        yield from ExecuteRunWithPlanIterable(
            execution_plan=execution_plan,
            iterator=self._run_steps,
            execution_context_manager=PlanExecutionContextManager(
                job=plan_context.job,
                execution_plan=execution_plan,
                run_config=plan_context.run_config,
                dagster_run=plan_context.dagster_run,
                instance=plan_context.instance,
                retry_mode=plan_context.retry_mode,
                raise_on_error=plan_context.raise_on_error,
                output_capture=plan_context.output_capture,
            ),
        )

    def _run_steps(self, job_context: PlanExecutionContext, execution_plan: ExecutionPlan) -> Iterator[DagsterEvent]:
        """Yield the events of all steps until the plan is done or the run is stopped.

        Raises:
            RunStoppedError: an operator stopped the run; its open steps have ended.
        """
        news: queue.SimpleQueue[_News] = queue.SimpleQueue()
        open_steps: set[str] = set()
        crash: BaseException | None = None
        on_main_thread = threading.current_thread() is threading.main_thread()
        run_id = job_context.run_id
        with (
            stops.watch(run_id, lambda: news.put(None)),
            InstanceConcurrencyContext(job_context.instance, job_context.dagster_run) as concurrency,
            execution_plan.start(
                retry_mode=self.retries,
                max_concurrent=self._max_concurrent,
                instance_concurrency_context=concurrency,
                step_dependency_config=self.step_dependency_config,
            ) as active,
        ):
            while open_steps or not active.is_complete:
                if on_main_thread:
                    _pass_on_signals(job_context)
                stopped = crash is not None or stops.terminated(run_id)
                if stopped and not open_steps:
                    break
                if not stopped:
                    for step in active.get_steps_to_execute():
                        open_steps.add(step.key)
                        step_context = job_context.for_step(step, active.get_known_state())
                        threading.Thread(
                            target=_run_step, args=(step_context, news), name=f"{run_id[:8]} {step.key}", daemon=True
                        ).start()
                    yield from active.concurrency_event_iterator(job_context)
                delay: float = active.sleep_interval()  # type: ignore[no-untyped-call]
                try:
                    item = news.get(timeout=_longest_wait(delay, on_main_thread))
                except queue.Empty:
                    continue
                if item is None:
                    continue
                step_key, event = item
                if isinstance(event, DagsterEvent):
                    if run_continues(event):  # it is in the event log; passed on, it would fail the run
                        active.mark_success(step_key)
                        concurrency.free_step(step_key)
                        continue
                    yield event
                    active.handle_event(event)
                    continue
                crash = crash or event
                open_steps.remove(step_key)
                active.verify_complete(job_context, step_key)
                yield from active.plan_events_iterator(job_context)
            if crash is not None:
                raise crash
            if not active.is_complete:
                active.mark_interrupted()
                raise RunStoppedError("The run was stopped by an operator.")


def _run_step(step_context: StepExecutionContext, news: queue.SimpleQueue[_News]) -> None:
    """Run one step on this thread; always report its end, because the run waits for it."""
    step_key = step_context.step.key
    crash: BaseException | None = None
    try:
        for event in dagster_event_sequence_for_step(step_context):
            news.put((step_key, event))
    except PlainFailureError as error:
        crash = None if error.run_continues else error
    except BaseException as error:  # noqa: BLE001  raised on the run's thread
        crash = error
    news.put((step_key, crash))


def _longest_wait(sleep_interval: float, on_main_thread: bool) -> float | None:
    """Return the seconds after which the run checks for signals without an event; None: it need not."""
    waits = [sleep_interval] if sleep_interval > 0 else []
    if on_main_thread:
        waits.append(INTERRUPT_POLL_SECONDS)
    return min(waits, default=None)


def _pass_on_signals(job_context: PlanExecutionContext) -> None:
    """Forward a stop signal to the run, in a process of one run, as under `dagster dev`."""
    if not pop_captured_interrupt():
        return
    run = job_context.instance.get_run_by_id(job_context.run_id)
    if run is not None and run.status is DagsterRunStatus.CANCELING:
        stops.terminate(run.run_id)
    else:
        stops.drain()


@executor(
    name="thread_executor",
    config_schema={
        "max_concurrent": Field(
            Noneable(Int), default_value=None, description="Steps of a run that are open at a time."
        )
    },
)
def _thread_executor(context: InitExecutorContext) -> Executor:
    return ThreadExecutor(context.executor_config["max_concurrent"])  # type: ignore[arg-type]


def thread_executor(max_concurrent: int) -> ExecutorDefinition:
    """Return the executor with `max_concurrent` steps of a run open at a time."""
    return _thread_executor.configured({"max_concurrent": max_concurrent}, name="quel_executor")
