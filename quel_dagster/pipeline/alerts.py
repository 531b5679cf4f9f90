"""Tells somebody when a run failed for good: posts JSON to a webhook, or writes to the log. Off by default."""

from __future__ import annotations

import logging
from typing import Any

import httpx
from dagster import (
    DagsterRunStatus,
    DefaultSensorStatus,
    RunStatusSensorContext,
    RunStatusSensorDefinition,
    run_status_sensor,
)
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential

from quel_dagster.errors import QuelError, SettingsError
from quel_dagster.pipeline.runs import will_be_retried
from quel_dagster.pipeline.tags import JOB_ID_TAG
from quel_dagster.settings import Settings

#: instead of a URL: write to this log
LOG = "log:"
ATTEMPTS = 3
TIMEOUT_SECONDS = 5.0
ALERT_SECONDS = 10
_log = logging.getLogger("quel.alerts")


def failure_alerts(settings: Settings) -> RunStatusSensorDefinition:
    """The sensor that tells of failed runs of every job; on when QUEL_ALERT_WEBHOOK_URL is set."""

    @run_status_sensor(
        name="failure_alerts",
        run_status=DagsterRunStatus.FAILURE,
        minimum_interval_seconds=ALERT_SECONDS,
        default_status=DefaultSensorStatus.RUNNING if settings.alert_webhook_url else DefaultSensorStatus.STOPPED,
        description="Posts every run that failed for good to QUEL_ALERT_WEBHOOK_URL; off without it.",
    )
    def alert(context: RunStatusSensorContext) -> None:
        run = context.dagster_run
        url = Settings.read().alert_webhook_url
        if will_be_retried(context.instance, run):
            context.log.info(f"Run {run.run_id} is retried.")
        elif url is None:
            context.log.warning("QUEL_ALERT_WEBHOOK_URL is not set.")
        else:
            tell(url.get_secret_value(), of_failure(context))
            context.log.info(f"Told of run {run.run_id}.")

    return alert


def of_failure(context: RunStatusSensorContext) -> dict[str, Any]:
    """What is told: `text` for people (chat services show it), and the facts by name."""
    run = context.dagster_run
    tags = {name.removeprefix("quel/"): value for name, value in run.tags.items() if name.startswith("quel/")}
    reason = _reason(context)
    subject = f"Job {run.tags[JOB_ID_TAG]}" if run.tags.get(JOB_ID_TAG) else f"Run of {run.job_name}"
    text = f"{subject} failed: {reason}"
    return {"text": text, "run_id": run.run_id, "job_name": run.job_name, "reason": reason, **tags}


def _reason(context: RunStatusSensorContext) -> str:
    """The words of the step that failed, else of the run."""
    for event in context.for_run_failure().get_step_failure_events():
        data = event.step_failure_data
        if data.user_failure_data and data.user_failure_data.description:
            return data.user_failure_data.description
        if data.error:
            return data.error.message.strip()
    return context.dagster_event.message or "its worker is gone"


def tell(where: str, alert: dict[str, Any]) -> None:
    """Post an alert, or write it to the log.

    Raises:
        QuelError: the webhook did not take it, three times.
        SettingsError: this is neither an http(s) URL nor `log:`.
    """
    if where == LOG:
        _log.error(alert["text"], extra={"alert": alert})
        return
    if not where.startswith(("http://", "https://")):
        raise SettingsError("QUEL_ALERT_WEBHOOK_URL is neither an http(s) URL nor log:.")
    try:
        _post(where, alert)
    except httpx.HTTPError as error:  # the URL stays out of the message: it may be a secret
        status = f" with {error.response.status_code}" if isinstance(error, httpx.HTTPStatusError) else ""
        raise QuelError(f"The alert webhook did not take an alert ({type(error).__name__}{status}).") from None


@retry(
    retry=retry_if_exception_type(httpx.HTTPError),
    stop=stop_after_attempt(ATTEMPTS),
    wait=wait_exponential(multiplier=0.2, max=2),
    reraise=True,
)
def _post(url: str, alert: dict[str, Any]) -> None:
    httpx.post(url, json=alert, timeout=TIMEOUT_SECONDS).raise_for_status()
