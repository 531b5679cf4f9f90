"""Errors that the run page shows as one line: a stack trace of an expected failure tells an operator nothing.

Dagster shows the error of a child process as that process described it, which is how these come without a stack.
"""

from __future__ import annotations

from dagster import DagsterEvent, Failure

from quel_dagster.platform.internals import (
    DagsterExecutionInterruptedError,
    DagsterUserCodeProcessError,
    SerializableErrorInfo,
)

#: Metadata of a failure after which the run continues, and what the run page shows beside it.
RUN_CONTINUES = "run"
RUN_CONTINUES_TEXT = "continues with the other units"


class PlainFailureError(DagsterUserCodeProcessError, Failure):
    """The failure of an op, as its reason alone. It is not retried, since a retry would only repeat it.

    Args:
        run_continues: show the step as failed, and run the steps that depend on it. The op must have given every
            output before. Only `ThreadExecutor` does so: see `stops.watches`.
    """

    def __init__(self, reason: str, *, run_continues: bool = False) -> None:
        self.run_continues = run_continues
        super().__init__(  # type: ignore[no-untyped-call]
            reason,
            metadata={RUN_CONTINUES: RUN_CONTINUES_TEXT} if run_continues else None,
            allow_retries=False,
            user_code_process_error_infos=[_plain(reason)],
        )


class RunStoppedError(DagsterUserCodeProcessError, DagsterExecutionInterruptedError):
    """An operator stopped the run."""

    def __init__(self, reason: str) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            reason, user_code_process_error_infos=[_plain(reason)]
        )


def run_continues(event: DagsterEvent) -> bool:
    """Return whether this is the failure of a step after which the run continues."""
    if not event.is_step_failure:
        return False
    failure = event.step_failure_data.user_failure_data
    return failure is not None and RUN_CONTINUES in failure.metadata


def _plain(reason: str) -> SerializableErrorInfo:
    return SerializableErrorInfo(message=f"{reason}\n", stack=[], cls_name=None)
